# find_package(treadle CONFIG) with -Dtreadle_DIR=$(treadle --cmakedir).
#
#   treadle::runtime           the headers, those of tvm-ffi, and an rpath to the libtvm_ffi.so of this machine
#   treadle_add_bundle(...)    a bundle compiled as part of the build
#   TREADLE_TVM_FFI_LIBRARY    the libtvm_ffi.so to ship beside the program
#
# No Python is needed at run time. Here the `treadle` command is looked up, to compile bundles and to find tvm-ffi.
include(CMakeFindDependencyMacro)
find_dependency(Threads)

get_filename_component(_treadle_package "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
get_filename_component(_treadle_site "${_treadle_package}/.." ABSOLUTE)

# In a virtual environment the command lies in bin, four folders above site-packages/treadle; with `pip install --target`, one.
find_program(TREADLE_PROGRAM treadle HINTS "${_treadle_site}/../../../bin" "${_treadle_site}/bin" DOC "The treadle command")

# Beside treadle in site-packages; with an editable install, in the environment of the command.
set(_treadle_ffi "${_treadle_site}/tvm_ffi")
if(NOT EXISTS "${_treadle_ffi}" AND TREADLE_PROGRAM)
  get_filename_component(_treadle_bin "${TREADLE_PROGRAM}" DIRECTORY)
  execute_process(
    COMMAND "${_treadle_bin}/python" -c "import tvm_ffi; print(tvm_ffi.__path__[0], end='')"
    OUTPUT_VARIABLE _treadle_ffi ERROR_QUIET)
endif()
find_path(TREADLE_TVM_FFI_INCLUDE tvm/ffi/c_api.h HINTS "${_treadle_ffi}/include" DOC "The folder with tvm/ffi/c_api.h and dlpack/dlpack.h")
find_file(TREADLE_TVM_FFI_LIBRARY libtvm_ffi.so HINTS "${_treadle_ffi}/lib" DOC "libtvm_ffi.so")
if(NOT TREADLE_TVM_FFI_INCLUDE OR NOT TREADLE_TVM_FFI_LIBRARY)
  set(treadle_FOUND FALSE)
  set(treadle_NOT_FOUND_MESSAGE
      "tvm-ffi is not found. Run `pip install apache-tvm-ffi`, then pass -DTREADLE_PROGRAM=$(command -v treadle), or \
-DTREADLE_TVM_FFI_INCLUDE and -DTREADLE_TVM_FFI_LIBRARY as `python -m tvm_ffi.config` prints them.")
  return()
endif()

if(NOT TARGET treadle::runtime)
  add_library(treadle::runtime INTERFACE IMPORTED)
  get_filename_component(_treadle_ffi_folder "${TREADLE_TVM_FFI_LIBRARY}" DIRECTORY)
  set_target_properties(treadle::runtime PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_treadle_package}/runtime/cpp/include;${TREADLE_TVM_FFI_INCLUDE}"
    INTERFACE_COMPILE_FEATURES cxx_std_17
    # The headers open libtvm_ffi.so themselves, so that they can say what to do where it is missing: nothing links it.
    INTERFACE_LINK_OPTIONS "LINKER:-rpath,${_treadle_ffi_folder}"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS}")
endif()

include("${CMAKE_CURRENT_LIST_DIR}/treadleAddBundle.cmake")
