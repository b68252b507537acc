// SentencePiece byte-pair encoding: adjacent symbols are joined, the pair whose joined piece has the highest score
// first (the leftmost of equals), until no pair joins to a piece. No list of merges is needed, so a vocabulary of
// 262,144 pieces is ready in tens of milliseconds. Source: Kudo and Richardson 2018, and Sennrich et al. 2016 for the
// joining.
//
// The vocabulary comes from a file and the text from a user, both hostile: hashes have a random base, and encoding
// takes O(n log n) time for any text of n bytes.
#pragma once
#include <stdint.h>
#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace pellucid {

// Longest-match search for a fixed set of strings.
class PrefixTree {
  public:
    // Ascending by bytes; `ids` are theirs. Of equal strings the first counts.
    PrefixTree(const std::vector<std::pair<std::string, int32_t>>& strings);
    // Length of the longest string that `text` begins with and its id; length 0 for none.
    std::pair<size_t, int32_t> longest(std::string_view text) const;

  private:
    struct Node {
        int32_t id = -1, child = -1, sibling = -1;
        uint8_t byte = 0;
    };
    std::vector<Node> nodes_;
    std::array<int32_t, 256> roots_;
};

class SentencePiece {
  public:
    enum Kind : uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

    // pieces: P texts in UTF-8, one after the other, ending at `ends` [P]. scores: [P], finite. kinds: [P].
    // unknown_id: for what cannot be spelled, or -1 to leave it out. adds_space: put one before each text.
    // Only normal, user-defined and byte pieces (and unknown_id) are ever yielded.
    SentencePiece(std::string pieces, std::vector<uint32_t> ends, std::vector<float> scores, std::vector<uint8_t> kinds,
                  int32_t unknown_id, bool adds_space);

    // Ids of UTF-8 text.
    std::vector<int32_t> encode(std::string_view text) const;
    // The first piece that is there a second time, or -1. Nothing else may be asked of such a vocabulary.
    int32_t duplicate() const { return duplicate_; }

  private:
    struct Symbol {
        int32_t previous, next, id;
        bool joins;  // bytes and unknown characters do not
    };
    struct Pair {
        float score;
        int32_t at, left, right, joined;
        bool operator<(const Pair& other) const {  // of a heap whose top is taken first
            return score < other.score || (score == other.score && at > other.at);
        }
    };
    struct Space {  // what encoding a word needs, kept between words
        std::vector<Symbol> symbols;
        std::vector<Pair> heap;
    };

    std::string_view piece(int32_t id) const;
    uint64_t hash_of(std::string_view text) const;
    int32_t find(uint64_t hash, std::string_view left, std::string_view right) const;
    int32_t find_joined(int32_t left, int32_t right) const;
    bool is_open(int32_t id) const;
    void encode_plain(std::string_view text, Space& space, std::vector<int32_t>& ids) const;
    void encode_word(std::string_view word, Space& space, std::vector<int32_t>& ids) const;
    void spell(std::string_view character, std::vector<Symbol>& symbols, bool& after_unknown) const;

    const std::string pieces_;
    const std::vector<uint32_t> ends_;
    const std::vector<float> scores_;
    const std::vector<uint8_t> kinds_;
    const int32_t unknown_id_;
    const bool adds_space_;

    uint64_t base_;
    std::vector<uint64_t> powers_;  // of the base, up to the longest normal piece
    std::vector<uint64_t> hashes_;  // [P]
    std::vector<int32_t> slots_;    // ids by hash, open addressing; -1: free
    int shift_;
    int32_t duplicate_ = -1;
    std::array<int32_t, 256> bytes_;         // ids of "<0x00>" to "<0xFF>", or -1
    std::array<bool, 256> leads_to_mark_{};  // bytes that stand before a space mark in some normal piece
    PrefixTree user_defined_;
};

}  // namespace pellucid
