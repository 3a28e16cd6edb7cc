# The target dipgo_json: nlohmann-json's headers, from ORT_ROOT if the script put them there, or from the system.
find_path(NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp HINTS ${ORT_ROOT} PATH_SUFFIXES include)
if(NOT NLOHMANN_JSON_INCLUDE_DIR)
  message(FATAL_ERROR "nlohmann/json.hpp was not found.\n"
    "Install nlohmann-json (Debian: nlohmann-json3-dev), or fetch it with scripts/fetch_onnxruntime.py")
endif()
add_library(dipgo_json INTERFACE)
target_include_directories(dipgo_json SYSTEM INTERFACE ${NLOHMANN_JSON_INCLUDE_DIR})
