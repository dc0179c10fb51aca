#include "daemon/store/pages.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/fd.h"

namespace egress::store {

namespace {

using View = std::span<const std::uint8_t>;

constexpr std::size_t head_size = 16; // of a page: number(8) pad(2) flags(2) lower(2) upper(2)
constexpr std::uint64_t no_page = ~std::uint64_t{0};
constexpr int most_depth = 32;

enum PageFlags : std::uint16_t { branch = 1, leaf = 2, overflow = 4, meta = 8 };
enum NodeFlags : std::uint16_t { plain = 0, big = 1, sub = 2 };

/// MDB_db: the description of a tree.
struct Tree {
    std::uint32_t pad;
    std::uint16_t flags;
    std::uint16_t depth;
    std::uint64_t branches;
    std::uint64_t leaves;
    std::uint64_t overflows;
    std::uint64_t entries;
    std::uint64_t root;
};
static_assert(sizeof(Tree) == 48);

/// MDB_meta: one of the two heads of the file.
struct Head {
    std::uint32_t magic;
    std::uint32_t version;
    std::uint64_t address;
    std::uint64_t map_size;
    Tree free;
    Tree main;
    std::uint64_t last_page;
    std::uint64_t transaction;
};
static_assert(sizeof(Head) == 136);

template <typename T>
T at(View bytes, std::size_t offset) { // the caller has checked the bounds
    T out;
    std::memcpy(&out, bytes.data() + offset, sizeof out);
    return out;
}

class Pages {
  public:
    explicit Pages(View file) : file_(file) {}

    /// Returns the first damage; it ends the walk.
    std::optional<std::string> check() {
        if (!choose_head()) {
            return text_;
        }
        used_.assign(head_.last_page + 1, false);
        used_[0] = used_[1] = true;
        if (tree(head_.free, Kind::free) && tree(head_.main, Kind::main)) {
            free_pages();
        }
        return text_;
    }

  private:
    enum class Kind { free, main, rows };
    struct Node {
        std::uint32_t size; ///< of the value, or part of the child's number
        std::uint16_t flags;
        View key;
        std::size_t offset; ///< of the node in the page
        std::size_t value;  ///< of the value in the page
        std::size_t end;    ///< of the node's end in the page; LMDB rounds to even numbers
    };
    /// The counts of a walk, as in MDB_db.
    struct Counts {
        std::uint64_t branches = 0;
        std::uint64_t leaves = 0;
        std::uint64_t overflows = 0;
        std::uint64_t entries = 0;
    };

    bool bad(std::string text) {
        text_ = text_.value_or(std::move(text));
        return false;
    }
    bool bad(std::uint64_t page, std::string_view what) {
        return bad(fmt::format("page {} of its file: {}", page, what));
    }

    bool choose_head() {
        if (file_.size() < 2 * page_size_) {
            return bad("its file is too short");
        }
        const auto first = at<Head>(file_, head_size);
        page_size_ = first.free.pad;
        if (page_size_ < 512 || page_size_ > 65536 || file_.size() < 2 * page_size_) {
            return bad("the size of its pages is damaged");
        }
        const auto second = at<Head>(file_, page_size_ + head_size);
        head_ = second.transaction > first.transaction ? second : first;
        const auto older = std::min(first.transaction, second.transaction);
        // Each commit writes the head whose number has the same parity as its own.
        const bool in_turn = head_.transaction - older == 1 && first.transaction % 2 == 0;
        if (!in_turn && head_.transaction != 0) {
            return bad("its two heads are not of commits in turn");
        }
        return head_.last_page < file_.size() / page_size_ || bad("its file is too short");
    }

    std::optional<View> page(std::uint64_t number, std::uint16_t flags) {
        if (number < 2 || number > head_.last_page) {
            bad(number, "there is no such page");
            return std::nullopt;
        }
        if (used_[number]) {
            bad(number, "it is used twice");
            return std::nullopt;
        }
        used_[number] = true;
        const View bytes = file_.subspan(number * page_size_, page_size_);
        if (at<std::uint64_t>(bytes, 0) != number || at<std::uint16_t>(bytes, 10) != flags) {
            bad(number, "its head is damaged");
            return std::nullopt;
        }
        return bytes;
    }

    bool overflow_pages(const View& leaf_page, const Node& node, Counts& counts) {
        const auto first = at<std::uint64_t>(leaf_page, node.value);
        const auto bytes = page(first, overflow);
        if (!bytes) {
            return false;
        }
        const auto count = at<std::uint32_t>(*bytes, 12);
        const auto needed = (head_size + node.size + page_size_ - 1) / page_size_;
        if (count != needed || first + count > head_.last_page + 1) {
            return bad(first, "its length is damaged");
        }
        counts.overflows += count;
        for (std::uint64_t next = first + 1; next < first + count; ++next) {
            if (used_[next]) {
                return bad(next, "it is used twice");
            }
            used_[next] = true;
        }
        return true;
    }

    std::optional<Node> node_of(const View& bytes, std::size_t index, bool is_leaf) {
        const std::size_t offset = at<std::uint16_t>(bytes, head_size + 2 * index);
        if (offset + 8 > page_size_ || offset < head_size) {
            return std::nullopt;
        }
        Node node{};
        node.size = at<std::uint16_t>(bytes, offset) |
                    std::uint32_t{at<std::uint16_t>(bytes, offset + 2)} << 16;
        node.flags = at<std::uint16_t>(bytes, offset + 4);
        const std::size_t key_size = at<std::uint16_t>(bytes, offset + 6);
        node.value = offset + 8 + key_size;
        const std::size_t stored = !is_leaf ? 0 : node.flags == big ? 8 : node.size;
        if (node.value + stored > page_size_) {
            return std::nullopt;
        }
        node.key = bytes.subspan(offset + 8, key_size);
        node.offset = offset;
        node.end = node.value + stored + (node.value + stored - offset) % 2;
        return node;
    }

    bool ascending(const View& before, const View& key, Kind kind) {
        if (kind == Kind::free) { // numbers in the machine's byte order
            return key.size() == 8 && before.size() == 8 &&
                   at<std::uint64_t>(before, 0) < at<std::uint64_t>(key, 0);
        }
        return std::ranges::lexicographical_compare(before, key);
    }

    bool leaf_node(const View& bytes, std::uint64_t number, const Node& node, Kind kind,
                   Counts& counts) {
        ++counts.entries;
        const bool may_sub = kind == Kind::main;
        if (node.flags == big) {
            return overflow_pages(bytes, node, counts) &&
                   (kind != Kind::free || free_list(number, node, bytes));
        }
        if (node.flags == sub && may_sub && node.size == sizeof(Tree)) {
            return tree(at<Tree>(bytes, node.value), Kind::rows);
        }
        if (node.flags != plain) {
            return bad(number, "a row's head is damaged");
        }
        return kind != Kind::free || free_list(number, node, bytes);
    }

    /// Notes the pages of the free list; checked once all other pages are known.
    bool free_list(std::uint64_t number, const Node& node, const View& bytes) {
        View list =
            node.flags == big
                ? file_.subspan(at<std::uint64_t>(bytes, node.value) * page_size_ + head_size,
                                node.size)
                : bytes.subspan(node.value, node.size);
        if (list.size() < 8 || list.size() % 8 != 0 ||
            at<std::uint64_t>(list, 0) > list.size() / 8 - 1) {
            return bad(number, "its list of free pages is damaged");
        }
        const auto count = at<std::uint64_t>(list, 0);
        for (std::size_t i = 1; i <= count; ++i) {
            free_.push_back(at<std::uint64_t>(list, 8 * i));
            if (i > 1 && free_.back() >= free_[free_.size() - 2]) {
                return bad(number, "its list of free pages is damaged");
            }
        }
        return true;
    }

    bool free_pages() {
        for (const auto number : free_) {
            if (number < 2 || number > head_.last_page || used_[number]) {
                return bad(number, "it is called free, and it is not");
            }
            used_[number] = true;
        }
        return true;
    }

    /// LMDB leaves no gap between the rows of a page.
    bool fills(std::vector<std::pair<std::size_t, std::size_t>>& room, std::size_t from) const {
        std::ranges::sort(room);
        for (const auto& [offset, end] : room) {
            if (offset != from) {
                return false;
            }
            from = end;
        }
        return from == page_size_;
    }

    bool walk(std::uint64_t number, int depth, Kind kind, Counts& counts) {
        const bool is_leaf = depth == 1;
        const auto bytes = page(number, is_leaf ? leaf : branch);
        if (!bytes) {
            return false;
        }
        (is_leaf ? counts.leaves : counts.branches) += 1;
        const std::size_t lower = at<std::uint16_t>(*bytes, 12);
        const std::size_t upper = at<std::uint16_t>(*bytes, 14);
        if (lower < head_size || lower % 2 != 0 || upper < lower || upper > page_size_) {
            return bad(number, "its head is damaged");
        }
        const std::size_t nodes = (lower - head_size) / 2;
        std::vector<std::pair<std::size_t, std::size_t>> room;
        View before;
        for (std::size_t i = 0; i < nodes; ++i) {
            const auto node = node_of(*bytes, i, is_leaf);
            const bool keyless = !is_leaf && i == 0;
            if (!node ||
                (!keyless && before.data() != nullptr && !ascending(before, node->key, kind))) {
                return bad(number, "its rows are damaged");
            }
            before = keyless ? View() : node->key;
            room.emplace_back(node->offset, node->end);
            const auto child = std::uint64_t{node->size} | std::uint64_t{node->flags} << 32;
            if (is_leaf ? !leaf_node(*bytes, number, *node, kind, counts)
                        : !walk(child, depth - 1, kind, counts)) {
                return false;
            }
        }
        return (nodes > (is_leaf ? 0 : 1) && fills(room, upper)) ||
               bad(number, "its head is damaged");
    }

    bool tree(const Tree& wanted, Kind kind) {
        constexpr std::uint16_t integer_keys = 8;
        Counts counts;
        if (wanted.root == no_page) {
            return wanted.entries == 0 || bad("a tree has lost its root");
        }
        const bool flags_right =
            kind != Kind::free ? wanted.flags == 0 : wanted.flags == integer_keys;
        if (wanted.depth < 1 || wanted.depth > most_depth || !flags_right) {
            return bad("the head of a tree is damaged");
        }
        if (!walk(wanted.root, wanted.depth, kind, counts)) {
            return false;
        }
        return (counts.branches == wanted.branches && counts.leaves == wanted.leaves &&
                counts.overflows == wanted.overflows && counts.entries == wanted.entries) ||
               bad("the counts of a tree are damaged");
    }

    View file_;
    std::size_t page_size_ = 4096;
    Head head_{};
    std::vector<bool> used_;
    std::vector<std::uint64_t> free_;
    std::optional<std::string> text_;
};

} // namespace

std::optional<std::string> page_damage(const std::string& file) {
    if constexpr (sizeof(std::size_t) != 8 || std::endian::native != std::endian::little) {
        return std::nullopt; // another layout: rely on LMDB's own checks
    }
    const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    if (!fd || fstat(fd.get(), &info) != 0 || info.st_size <= 0) {
        return fmt::format("its file cannot be read: {}", std::strerror(errno));
    }
    const auto size = static_cast<std::size_t>(info.st_size);
    void* const map = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (map == MAP_FAILED) {
        return fmt::format("its file cannot be read: {}", std::strerror(errno));
    }
    auto found = Pages({static_cast<const std::uint8_t*>(map), size}).check();
    munmap(map, size);
    return found;
}

} // namespace egress::store
