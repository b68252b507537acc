#define PELLUCID_WALKS avx2
#include "sampling/walks_code.h"

namespace pellucid::sampling {
const Walks& avx2_walks() { return avx2::table; }
}  // namespace pellucid::sampling
