// The field `pipeline` of plan.json, by the rules of dipgo_compile/formats/pipeline_json.py.
#pragma once

#include "json_field.h"
#include "plan.h"

namespace dipgo::impl {

// Fills in what surrounds the denoiser; everything else of the plan has been read. Throws Error (bundle).
void read_pipeline(const Field& item, Plan& plan);

}  // namespace dipgo::impl
