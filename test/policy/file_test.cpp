#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "daemon/policy/text/lexer.h"
#include "test/policy/scratch.h"

namespace egress::policy {

TEST_CASE("the file, then the directory's in the order of their names, each from [local] on") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "[remote]\n10.0.0.0/8 * * * = * *\n");
    scratch.write("d/b.conf", "25 * * * * 3 1h\n");
    scratch.write("d/a.conf", "22 * * * * 3 1h\n[remote]\n");
    scratch.write("d/B.conf", "53 * * * * 3 1h\n");
    scratch.write("d/.hidden.conf", "nonsense\n");
    scratch.write("d/c.conf.dpkg-old", "nonsense\n");
    const auto parsed = parse_files(main, scratch.path("d"));
    CHECK(scratch.said(parsed) == "");
    REQUIRE(parsed.policy.local.size() == 3);
    CHECK(parsed.policy.local[0].location.port == 53);
    CHECK(parsed.policy.local[1].location.port == 22);
    CHECK(parsed.policy.local[2].location.port == 25);
    CHECK(parsed.policy.remote.size() == 1);
    CHECK(parsed.policy.local[1].place.text() == scratch.path("d/a.conf") + ":1:1");
}

TEST_CASE("an absent file is an error, an absent directory is not") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "22 * * * * 3 1h\n");
    CHECK(parse_files(main, scratch.path("absent")).ok());
    CHECK(parse_files(main, "").ok());
    const auto absent = parse_files(scratch.path("absent"), "");
    CHECK(scratch.said(absent) ==
          "absent: cannot open the rules file: No such file or directory\n");
}

TEST_CASE("one bad file of the directory is an error of all") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "22 * * * * 3 1h\n");
    scratch.write("d/a.conf", "22x * * * * 3 1h\n");
    CHECK_FALSE(parse_files(main, scratch.path("d")).ok());
    scratch.write("d/a.conf", "");
    CHECK(parse_files(main, scratch.path("d")).ok());
    REQUIRE(symlink("nowhere", scratch.path("d/z.conf").c_str()) == 0);
    CHECK_FALSE(parse_files(main, scratch.path("d")).ok());
}

TEST_CASE("a FIFO or a directory in place of a file does not stop the daemon") {
    const Scratch scratch;
    REQUIRE(mkfifo(scratch.path("fifo").c_str(), 0600) == 0);
    CHECK(scratch.said(parse_files(scratch.path("fifo"), "")) ==
          "fifo: the rules file is not a regular file\n");
    CHECK(scratch.said(parse_files(scratch.path("d"), "")) ==
          "d: the rules file is not a regular file\n");
    CHECK_FALSE(parse_files("/dev/null", "").ok());
}

TEST_CASE("what everybody may write decides nothing") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "22 * * * * 3 1h\n");
    REQUIRE(chmod(main.c_str(), 0666) == 0);
    CHECK(
        scratch.said(parse_files(main, "")) ==
        "main.conf: every user may write the rules file, and so decide who gets blocked; take the "
        "right away with chmod o-w\n");
    REQUIRE(chmod(main.c_str(), 0664) == 0);
    CHECK(parse_files(main, "").ok());
    REQUIRE(chmod(scratch.path("d").c_str(), 01777) == 0);
    CHECK_FALSE(parse_files(main, scratch.path("d")).ok());
}

TEST_CASE("a huge file is refused without reading all of it") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "");
    REQUIRE(truncate(main.c_str(), 1L << 40) == 0); // sparse
    const auto parsed = parse_files(main, "");
    CHECK_FALSE(parsed.ok());
    CHECK(parsed.diagnostics.size() == 1);
}

TEST_CASE("files with lines that cannot be enforced yet are refused, each by its place") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "[egress]\n"
                                                 "10.0.0.1 * * * * deny\n"
                                                 "10.0.0.2 * * * * deny trap\n"
                                                 "10.0.0.3 * * * * ask\n");
    const auto parsed = parse_files(main, "");
    CHECK_FALSE(parsed.ok());
    CHECK(scratch.said(parsed) ==
          "main.conf:3:1: the option trap is not there yet; this version cannot enforce the line\n"
          "main.conf:4:1: the action ask is not there yet; this version cannot enforce the line\n");
}

TEST_CASE("warnings of check() stand among the others in the order of the text") {
    const Scratch scratch;
    const auto main = scratch.write("main.conf", "22 * * * * 3 1h\n"
                                                 "22 * * * * 4 1h\n"
                                                 "25 * * * * x 1h\n"
                                                 "[egress]\n"
                                                 "* * * * * allow\n");
    scratch.write("d/a.conf", "22 * * * * 5 1h\n[egress]\n* * * * * deny\n");
    const auto said = scratch.said(parse_files(main, scratch.path("d")));
    CHECK(
        said ==
        "main.conf:2:1: warning: the line never decides; main.conf:1:1 matches the same "
        "and comes first\n"
        "main.conf:3:12: nfail 'x' is not a number\n"
        "d/a.conf:1:1: warning: the line never decides; "
        "main.conf:1:1 matches the same and comes first\n"
        "d/a.conf:3:1: warning: the line never decides; main.conf:5:1 matches all that it does and "
        "comes first\n");
}

} // namespace egress::policy
