#define PELLUCID_WALKS portable
#include "sampling/walks_code.h"

namespace pellucid::sampling {
const Walks& portable_walks() { return portable::table; }
}  // namespace pellucid::sampling
