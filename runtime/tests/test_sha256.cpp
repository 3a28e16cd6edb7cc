// FIPS 180-4's examples, and that bytes may come in pieces.
#include "check.h"
#include "sha256.h"

using dipgo::impl::Sha256;
using dipgo::impl::sha256;

int main() {
    CHECK_EQUAL(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK_EQUAL(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_EQUAL(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    const std::string million(1'000'000, 'a');
    const std::string expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    CHECK_EQUAL(sha256(million), expected);
    for (const std::size_t piece : {1u, 55u, 63u, 64u, 65u, 1000u}) {
        Sha256 digest;
        for (std::size_t at = 0; at < million.size(); at += piece) {
            digest.update(million.data() + at, std::min(piece, million.size() - at));
        }
        CHECK_EQUAL(digest.hexdigest(), expected);
    }
}
