// Arithmetic on pairs of bfloat16 (sm_90).
#include <cuda_bf16.h>
extern "C" __global__ void bfloats(const __nv_bfloat162* a, const __nv_bfloat162* b, __nv_bfloat162* out) {
    int i = threadIdx.x, n = blockDim.x;
    __nv_bfloat162 x = a[i], y = b[i];
    __nv_bfloat162* o = out + i;
    o[0 * n] = __hadd2_rn(x, y);
    o[1 * n] = __hmul2_rn(x, y);
    o[2 * n] = __hfma2(x, y, x);
    o[3 * n] = __hmax2(x, y);
    o[4 * n] = __hmin2_nan(x, y);
    o[5 * n] = __hneg2(__habs2(x));
    o[6 * n] = __hfma2_relu(x, y, y);
    o[7 * n] = __floats2bfloat162_rn(__low2float(x) * 1.01f, __high2float(y) / 3.0f);
    o[8 * n] = __halves2bfloat162(__float2bfloat16_rz(__low2float(x) * 1.01f), __int2bfloat16_rn(i * 513));
}
