// What TVM's CUDA loader wants to find in the CUDA libraries and never calls to launch a kernel. Without headers: only the
// names matter. CUDA_ERROR_NOT_SUPPORTED, should one be called after all.
#define ABSENT(name) \
  int name() { return 801; }

extern "C" {
ABSENT(cuFuncSetAttribute)
ABSENT(cuGetErrorString)
ABSENT(cuTensorMapEncodeTiled)
ABSENT(cudaDeviceGetAttribute)
ABSENT(cudaEventCreate)
ABSENT(cudaEventElapsedTime)
ABSENT(cudaEventSynchronize)
ABSENT(cudaFreeHost)
ABSENT(cudaGetDeviceCount)
ABSENT(cudaGetDeviceProperties)
ABSENT(cudaGraphDestroy)
ABSENT(cudaGraphExecDestroy)
ABSENT(cudaGraphInstantiate)
ABSENT(cudaGraphLaunch)
ABSENT(cudaMallocHost)
ABSENT(cudaMemGetInfo)
ABSENT(cudaMemcpyAsync)
ABSENT(cudaMemcpyPeerAsync)
ABSENT(cudaStreamBeginCapture)
ABSENT(cudaStreamCreate)
ABSENT(cudaStreamCreateWithFlags)
ABSENT(cudaStreamDestroy)
ABSENT(cudaStreamEndCapture)
}
