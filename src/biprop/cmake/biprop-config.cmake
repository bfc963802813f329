# find_package(biprop CONFIG): the target biprop::biprop, the engine's C interface (include/biprop.h).
# Point CMake here: cmake -Dbiprop_DIR="$(python -c 'import biprop; print(biprop.cmake_dir())')" ...
get_filename_component(_biprop_package "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(_biprop_core "${_biprop_package}/_core.so")

if(WIN32)
  set(biprop_FOUND FALSE)
  set(biprop_NOT_FOUND_MESSAGE "on Windows _core.dll has no import library: load it with LoadLibrary")
elseif(NOT EXISTS "${_biprop_core}")
  set(biprop_FOUND FALSE)
  set(biprop_NOT_FOUND_MESSAGE "this installation of biprop has no compiled core: ${_biprop_core}")
elseif(NOT TARGET biprop::biprop)
  add_library(biprop::biprop SHARED IMPORTED)
  set_target_properties(biprop::biprop PROPERTIES
    IMPORTED_LOCATION "${_biprop_core}"
    INTERFACE_INCLUDE_DIRECTORIES "${_biprop_package}/include")
endif()
