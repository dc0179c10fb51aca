#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/resolv_conf.h"

namespace egress {

namespace {

class File {
  public:
    File() : path_("/tmp/resolv_conf_test." + std::to_string(getpid())) {}
    ~File() { std::filesystem::remove(path_); }
    ResolvConf read(const std::string& text) const {
        std::ofstream(path_, std::ios::binary) << text;
        return read_resolv_conf(path_);
    }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

std::vector<std::string> texts(const ResolvConf& conf) {
    std::vector<std::string> out;
    for (const auto& address : conf.nameservers) {
        out.push_back(address.text());
    }
    return out;
}

using Texts = std::vector<std::string>;

} // namespace

TEST_CASE("resolv.conf: nameservers, each once, in order") {
    const File file;
    const auto conf = file.read("# by hand\n; as well\nnameserver 192.0.2.1\n\n"
                                "nameserver\t2001:db8::1 \r\n  nameserver fe80::1%eth0\n"
                                "nameserver 192.0.2.1\nnameserver wrong\nnameserver\n"
                                "nameservers 192.0.2.9\nnameserver 127.0.0.53");
    CHECK(texts(conf) == Texts{"192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.53"});
    CHECK(conf.search.empty());
}

TEST_CASE("resolv.conf: the last search or domain counts") {
    const File file;
    CHECK(file.read("search a.example b.example\n").search == Texts{"a.example", "b.example"});
    CHECK(file.read("search a.example\ndomain B.Example.\n").search == Texts{"b.example"});
    CHECK(file.read("search .\n").search.empty());
}

TEST_CASE("resolv.conf: what is no file has nothing, and nothing is without a bound") {
    const File file;
    CHECK(read_resolv_conf("/nonexistent") == ResolvConf{});
    CHECK(read_resolv_conf("/tmp") == ResolvConf{});
    REQUIRE(mkfifo(file.path().c_str(), 0600) == 0);
    CHECK(read_resolv_conf(file.path()) == ResolvConf{}); // does not wait for a writer
    std::filesystem::remove(file.path());
    std::string many = "search";
    for (int i = 0; i < 1000; ++i) {
        many += " d" + std::to_string(i) + ".example";
    }
    many += "\n";
    for (int i = 0; i < 1000; ++i) {
        many += "nameserver 10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250) + "\n";
    }
    CHECK(file.read(many).nameservers.size() == 64);
    CHECK(file.read(many).search.size() == 64);
}

} // namespace egress
