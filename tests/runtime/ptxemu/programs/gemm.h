// Shared by the gemm_*.cu: C[16 x 8] of each warp by one mma shape, fragments by hand.
#pragma once
typedef unsigned u32;
#define LANE (threadIdx.x & 31)
#define WARP (threadIdx.x >> 5)

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(to)), "l"(from));
}
__device__ __forceinline__ void copies_done() {
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;");
}
