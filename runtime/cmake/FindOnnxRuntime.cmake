# The target onnxruntime::onnxruntime: from ORT_ROOT if it is set, otherwise from ONNX Runtime's CMake package, otherwise
# from the places where the system keeps headers and libraries.
if(NOT ORT_ROOT)
  find_package(onnxruntime CONFIG QUIET)
endif()
if(NOT TARGET onnxruntime::onnxruntime)
  find_path(ORT_INCLUDE_DIR onnxruntime_cxx_api.h HINTS ${ORT_ROOT}
    PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
  find_library(ORT_LIBRARY onnxruntime HINTS ${ORT_ROOT} PATH_SUFFIXES lib lib64)
  if(NOT ORT_INCLUDE_DIR OR NOT ORT_LIBRARY)
    message(FATAL_ERROR "ONNX Runtime was not found (headers: ${ORT_INCLUDE_DIR}, library: ${ORT_LIBRARY}).\n"
      "Fetch it with: python ${CMAKE_CURRENT_SOURCE_DIR}/scripts/fetch_onnxruntime.py DIRECTORY\n"
      "and configure with: -DORT_ROOT=DIRECTORY")
  endif()
  add_library(onnxruntime::onnxruntime SHARED IMPORTED)
  set_target_properties(onnxruntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION ${ORT_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${ORT_INCLUDE_DIR})
endif()
