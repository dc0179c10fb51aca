// A time zone for as long as a test needs it.
#pragma once

#include <cstdlib>
#include <ctime>
#include <string>

namespace egress::policy {

class Zone {
  public:
    /// `text` as in tzset(3): "CET-1CEST,M3.5.0,M10.5.0/3" needs no files.
    explicit Zone(const char* text) {
        const char* before = std::getenv("TZ");
        had_ = before != nullptr;
        before_ = had_ ? before : "";
        set(text);
    }
    ~Zone() { set(had_ ? before_.c_str() : nullptr); }
    Zone(const Zone&) = delete;
    Zone& operator=(const Zone&) = delete;

  private:
    static void set(const char* text) {
        if (text != nullptr) {
            setenv("TZ", text, 1);
        } else {
            unsetenv("TZ");
        }
        tzset();
    }
    std::string before_;
    bool had_ = false;
};

} // namespace egress::policy
