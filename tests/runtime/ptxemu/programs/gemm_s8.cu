// Integer shapes: s8 k16 and k32, u8 x s8, s4 k64, m8n8k16.
#include "gemm.h"
extern "C" __global__ void gemm_s8(const u32* a, const u32* b, int* c) {
    int g = LANE >> 2, t = LANE & 3;
    // Rows of 32 bytes: 8 words.
    u32 x[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + 4 + t], a[(g + 8) * 8 + 4 + t]};
    u32 y[2] = {b[g * 8 + t], b[g * 8 + 4 + t]};
    int d[5][4] = {};
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0][0]), "+r"(d[0][1]), "+r"(d[0][2]), "+r"(d[0][3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(d[1][0]), "+r"(d[1][1]), "+r"(d[1][2]), "+r"(d[1][3]) : "r"(x[0]), "r"(x[1]), "r"(y[0]));
    asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.s4.u4.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[2][0]), "+r"(d[2][1]), "+r"(d[2][2]), "+r"(d[2][3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+r"(d[3][0]), "+r"(d[3][1]) : "r"(x[0]), "r"(y[0]));
    d[4][0] = d[4][1] = d[4][2] = d[4][3] = 0x7fffff00;
    asm volatile("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s4.s4.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(d[4][0]), "+r"(d[4][1]), "+r"(d[4][2]), "+r"(d[4][3]) : "r"(x[0]), "r"(x[1]), "r"(y[0]));
    for (int k = 0; k < 5; k++)
        for (int r = 0; r < 4; r++)
            c[k * 128 + (g + (r >> 1) * 8) * 8 + t * 2 + (r & 1)] = d[k][r];
}
