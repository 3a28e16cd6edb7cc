/* The header is C, and the library can be used from it. */
#include <string.h>

#include "dipgo/dipgo.h"

int main(void) {
    dipgo_plan *plan = NULL;
    if (dipgo_api_version() != DIPGO_API_VERSION) return 1;
    if (dipgo_plan_load("nowhere.dipgo", NULL, &plan) != DIPGO_ERROR_BUNDLE || plan != NULL) return 2;
    if (strstr(dipgo_last_error(), "nowhere.dipgo") == NULL) return 3;
    return 0;
}
