// What all files of the core share.
#pragma once

#define BIPROP_EXPORT extern "C" __attribute__((visibility("default")))
