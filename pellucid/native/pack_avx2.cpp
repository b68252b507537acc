#define PELLUCID_PACK avx2
#include "pack_code.h"

namespace pellucid {
PackPanel avx2_packer_of(Type type) { return avx2::packer_of(type); }
}  // namespace pellucid
