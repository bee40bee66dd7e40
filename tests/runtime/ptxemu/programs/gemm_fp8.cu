// e4m3 x e5m2 (sm_89).
#include "gemm.h"
extern "C" __global__ void gemm_fp8(const u32* a, const u32* b, float* c) {
    int g = LANE >> 2, t = LANE & 3;
    u32 x[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + 4 + t], a[(g + 8) * 8 + 4 + t]};
    u32 y[2] = {b[g * 8 + t], b[g * 8 + 4 + t]};
    float d[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    for (int r = 0; r < 4; r++) c[(g + (r >> 1) * 8) * 8 + t * 2 + (r & 1)] = d[r];
}
