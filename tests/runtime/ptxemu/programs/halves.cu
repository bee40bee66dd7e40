// Arithmetic on pairs of halves.
#include <cuda_fp16.h>
extern "C" __global__ void halves(const __half2* a, const __half2* b, __half2* out, unsigned* flags) {
    int i = threadIdx.x, n = blockDim.x;
    __half2 x = a[i], y = b[i];
    __half2* o = out + i;
    o[0 * n] = __hadd2_rn(x, y);
    o[1 * n] = __hmul2_rn(x, y);
    o[2 * n] = __hfma2(x, y, x);
    o[3 * n] = __hmax2(x, y);
    o[4 * n] = __hmin2_nan(x, y);
    o[5 * n] = __hneg2(__habs2(x));
    o[6 * n] = __hfma2_relu(x, y, y);
    o[7 * n] = __hadd2_sat(x, y);
    o[8 * n] = h2exp2(x);
    o[9 * n] = __float22half2_rn(__half22float2(y));
    o[10 * n] = __halves2half2(__int2half_rn(i * 37), __float2half_rz(__low2float(x)));
    flags[i] = __hlt2_mask(x, y) ^ __hbgt2(x, y);
    flags[i + n] = __half2int_rz(__low2half(x)) + __hisnan(__high2half(y));
}
