#!/bin/sh
# Kernel settings of this host against tuning/sysctl.d/90-tidegate.conf; see tuning/tune.sh --help.
exec "$(dirname "$0")/../tuning/tune.sh" "$@"
