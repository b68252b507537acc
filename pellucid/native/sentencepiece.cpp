#include "sentencepiece.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>

namespace pellucid {

namespace {

constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581, a space
constexpr uint64_t kPrime = ((uint64_t)1 << 61) - 1;

uint64_t times(uint64_t a, uint64_t b) {  // modulo kPrime
    const unsigned __int128 product = (unsigned __int128)a * b;
    const uint64_t sum = ((uint64_t)product & kPrime) + (uint64_t)(product >> 61);
    return sum >= kPrime ? sum - kPrime : sum;
}
uint64_t plus(uint64_t a, uint64_t b) { return a + b >= kPrime ? a + b - kPrime : a + b; }

uint64_t random_base() {
    std::random_device device;
    return ((uint64_t)device() << 32 | device()) % (kPrime - 1024) + 512;
}

// Bytes of the UTF-8 character that starts with `first`.
size_t character_bytes(char first) {
    const uint8_t c = (uint8_t)first;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

std::string marked(std::string_view text) {
    std::string result;
    result.reserve(text.size() + text.size() / 2);
    for (const char c : text)
        if (c == ' ')
            result += kMark;
        else
            result += c;
    return result;
}

std::vector<std::pair<std::string, int32_t>> user_defined_strings(const std::string& pieces,
                                                                  const std::vector<uint32_t>& ends,
                                                                  const std::vector<uint8_t>& kinds, bool adds_space) {
    std::vector<std::pair<std::string, int32_t>> strings;
    for (size_t i = 0; i < ends.size(); i++) {
        if (kinds[i] != SentencePiece::user_defined) continue;
        const uint32_t begin = i == 0 ? 0 : ends[i - 1];
        const std::string_view text(pieces.data() + begin, ends[i] - begin);
        // Where every part of a text gets a space of its own, they are looked for before spaces are marked.
        if (!text.empty()) strings.emplace_back(adds_space ? std::string(text) : marked(text), (int32_t)i);
    }
    std::sort(strings.begin(), strings.end());
    return strings;
}

}  // namespace

PrefixTree::PrefixTree(const std::vector<std::pair<std::string, int32_t>>& strings) {
    roots_.fill(-1);
    std::vector<int32_t> path;  // nodes of the last string
    const std::string* last = nullptr;
    for (const auto& [text, id] : strings) {
        size_t same = 0;
        if (last)
            while (same < text.size() && same < last->size() && text[same] == (*last)[same]) same++;
        if (last && same == text.size()) continue;
        path.resize(same);
        for (size_t i = same; i < text.size(); i++) {
            int32_t& first = path.empty() ? roots_[(uint8_t)text[0]] : nodes_[(size_t)path.back()].child;
            const int32_t sibling = first;
            first = (int32_t)nodes_.size();
            path.push_back(first);
            nodes_.push_back({-1, -1, sibling, (uint8_t)text[i]});
        }
        nodes_[(size_t)path.back()].id = id;
        last = &text;
    }
}

std::pair<size_t, int32_t> PrefixTree::longest(std::string_view text) const {
    std::pair<size_t, int32_t> found{0, -1};
    int32_t at = text.empty() ? -1 : roots_[(uint8_t)text[0]];
    for (size_t length = 1; at >= 0; length++) {
        const Node& node = nodes_[(size_t)at];
        if (node.id >= 0) found = {length, node.id};
        if (length == text.size()) break;
        at = node.child;
        while (at >= 0 && nodes_[(size_t)at].byte != (uint8_t)text[length]) at = nodes_[(size_t)at].sibling;
    }
    return found;
}

SentencePiece::SentencePiece(std::string pieces, std::vector<uint32_t> ends, std::vector<float> scores,
                             std::vector<uint8_t> kinds, int32_t unknown_id, bool adds_space)
    : pieces_(std::move(pieces)),
      ends_(std::move(ends)),
      scores_(std::move(scores)),
      kinds_(std::move(kinds)),
      unknown_id_(unknown_id),
      adds_space_(adds_space),
      base_(random_base()),
      hashes_(ends_.size()),
      user_defined_(user_defined_strings(pieces_, ends_, kinds_, adds_space)) {
    bytes_.fill(-1);
    int bits = 1;
    while (((size_t)1 << bits) < 2 * ends_.size()) bits++;
    shift_ = 64 - bits;
    slots_.assign((size_t)1 << bits, -1);
    size_t longest = 0;
    for (int32_t id = 0; id < (int32_t)ends_.size(); id++) {
        const std::string_view text = piece(id);
        hashes_[(size_t)id] = hash_of(text);
        if (find(hashes_[(size_t)id], text, {}) >= 0) {
            duplicate_ = id;
            return;
        }
        size_t slot = hashes_[(size_t)id] * 0x9E3779B97F4A7C15 >> shift_;
        while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
        slots_[slot] = id;
        if (kinds_[(size_t)id] != normal) continue;
        longest = std::max(longest, text.size());
        for (size_t at = 0; (at = text.find(kMark, at + 1)) != text.npos;) leads_to_mark_[(uint8_t)text[at - 1]] = true;
    }
    powers_.assign(longest + 1, 1);
    for (size_t i = 1; i <= longest; i++) powers_[i] = times(powers_[i - 1], base_);
    for (int value = 0; value < 256; value++) {
        char name[8];
        const int length = std::snprintf(name, sizeof name, "<0x%02X>", value);
        const std::string_view text(name, (size_t)length);
        const int32_t id = find(hash_of(text), text, {});
        bytes_[(size_t)value] = id >= 0 && is_open(id) ? id : -1;
    }
    // A mark that is no piece belongs to a run of unknown characters, which is one token; and where characters may be
    // left out, those around them come together.
    const int32_t mark = find(hash_of(kMark), kMark, {});
    const bool spells_all =
        unknown_id_ >= 0 || std::all_of(bytes_.begin(), bytes_.end(), [](int id) { return id >= 0; });
    if (mark < 0 || !is_open(mark) || !spells_all) leads_to_mark_.fill(true);
}

std::string_view SentencePiece::piece(int32_t id) const {
    const uint32_t begin = id == 0 ? 0 : ends_[(size_t)id - 1];
    return {pieces_.data() + begin, ends_[(size_t)id] - begin};
}

// A polynomial in the base, so that a joined piece's hash follows from its halves'.
uint64_t SentencePiece::hash_of(std::string_view text) const {
    uint64_t hash = 0;
    for (const char c : text) hash = plus(times(hash, base_), (uint8_t)c + 1u);
    return hash;
}

// The piece that reads `left` and then `right`.
int32_t SentencePiece::find(uint64_t hash, std::string_view left, std::string_view right) const {
    for (size_t slot = hash * 0x9E3779B97F4A7C15 >> shift_; slots_[slot] >= 0;
         slot = (slot + 1) & (slots_.size() - 1)) {
        const int32_t id = slots_[slot];
        if (hashes_[(size_t)id] != hash) continue;
        const std::string_view text = piece(id);
        if (text.size() == left.size() + right.size() && text.substr(0, left.size()) == left &&
            text.substr(left.size()) == right)
            return id;
    }
    return -1;
}

int32_t SentencePiece::find_joined(int32_t left, int32_t right) const {
    const std::string_view first = piece(left), second = piece(right);
    if (first.size() + second.size() >= powers_.size()) return -1;
    const int32_t id =
        find(plus(times(hashes_[(size_t)left], powers_[second.size()]), hashes_[(size_t)right]), first, second);
    return id >= 0 && kinds_[(size_t)id] == normal ? id : -1;
}

bool SentencePiece::is_open(int32_t id) const {
    const uint8_t kind = kinds_[(size_t)id];
    return kind == normal || kind == user_defined || kind == byte || id == unknown_id_;
}

std::vector<int32_t> SentencePiece::encode(std::string_view text) const {
    Space space;
    std::vector<int32_t> ids;
    std::string whole;
    if (!adds_space_) {
        whole = marked(text);
        text = whole;
    }
    const auto plain = [&](std::string_view part) {
        if (part.empty()) return;
        if (adds_space_)
            encode_plain(std::string(kMark) + marked(part), space, ids);
        else
            encode_plain(part, space, ids);
    };
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
        const auto [length, id] = user_defined_.longest(text.substr(at));
        if (length == 0) {
            at++;
            continue;
        }
        plain(text.substr(begin, at - begin));
        ids.push_back(id);
        begin = at += length;
    }
    plain(text.substr(begin));
    return ids;
}

// Text with its spaces marked, word by word where no piece can reach into the next one: what is sorted stays small.
void SentencePiece::encode_plain(std::string_view text, Space& space, std::vector<int32_t>& ids) const {
    size_t begin = 0;
    for (size_t at = 0; (at = text.find(kMark, at + 1)) != text.npos;) {
        if (leads_to_mark_[(uint8_t)text[at - 1]]) continue;
        encode_word(text.substr(begin, at - begin), space, ids);
        begin = at;
    }
    encode_word(text.substr(begin), space, ids);
}

void SentencePiece::encode_word(std::string_view word, Space& space, std::vector<int32_t>& ids) const {
    std::vector<Symbol>& symbols = space.symbols;
    std::vector<Pair>& heap = space.heap;
    symbols.clear();
    bool after_unknown = false;
    for (size_t at = 0; at < word.size();) {
        const size_t length = std::min(character_bytes(word[at]), word.size() - at);
        spell(word.substr(at, length), symbols, after_unknown);
        at += length;
    }
    const int32_t count = (int32_t)symbols.size();
    for (int32_t i = 0; i < count; i++) {
        symbols[(size_t)i].previous = i - 1;
        symbols[(size_t)i].next = i + 1 < count ? i + 1 : -1;
    }

    heap.clear();
    const auto pair_at = [&](int32_t at) {
        if (at < 0 || symbols[(size_t)at].next < 0) return false;
        const Symbol &left = symbols[(size_t)at], &right = symbols[(size_t)left.next];
        if (!left.joins || !right.joins) return false;
        const int32_t joined = find_joined(left.id, right.id);
        if (joined < 0) return false;
        heap.push_back({scores_[(size_t)joined], at, left.id, right.id, joined});
        return true;
    };
    for (int32_t i = 0; i < count; i++) pair_at(i);
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const Pair pair = heap.back();
        heap.pop_back();
        Symbol& left = symbols[(size_t)pair.at];
        if (left.id != pair.left || left.next < 0 || symbols[(size_t)left.next].id != pair.right) continue;
        Symbol& right = symbols[(size_t)left.next];
        left.id = pair.joined;
        right.id = -1;
        left.next = right.next;
        if (left.next >= 0) symbols[(size_t)left.next].previous = pair.at;
        for (const int32_t at : {left.previous, pair.at})
            if (pair_at(at)) std::push_heap(heap.begin(), heap.end());
    }
    for (const Symbol& symbol : symbols)
        if (symbol.id >= 0) ids.push_back(symbol.id);
}

// A character as its own piece, else as its bytes' pieces, else as the unknown piece; one of those for a run of them.
void SentencePiece::spell(std::string_view character, std::vector<Symbol>& symbols, bool& after_unknown) const {
    const int32_t id = find(hash_of(character), character, {});
    if (id >= 0 && is_open(id)) {
        symbols.push_back({0, 0, id, kinds_[(size_t)id] == normal});
        after_unknown = false;
        return;
    }
    const auto has_byte = [&](char c) { return bytes_[(uint8_t)c] >= 0; };
    if (std::all_of(character.begin(), character.end(), has_byte)) {
        for (const char c : character) symbols.push_back({0, 0, bytes_[(uint8_t)c], false});
        after_unknown = false;
    } else if (unknown_id_ >= 0) {
        if (!after_unknown) symbols.push_back({0, 0, unknown_id_, false});
        after_unknown = true;
    }
}

}  // namespace pellucid
