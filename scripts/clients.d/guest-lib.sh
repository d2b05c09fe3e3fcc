# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# What the checks of all clients use; sourced in the virtual machine by the
# guest-* scripts, each named after its client.

client=${0##*/guest-}
KSM=/sys/kernel/mm/ksm

# What is 0 when nothing is merged or remembered.
COUNTERS="pages_shared pages_sharing pages_unshared pages_volatile ksm_zero_pages
	stable_node_chains stable_node_dups general_profit"

# --- results ---------------------------------------------------------------

ok() {
	echo "ok $client: $1"
}

# not_ok WHAT REASON [FILE]: FILE is the output of a program, to show its end
not_ok() {
	echo "not ok $client: $1: $2"
	[ -z "${3:-}" ] || tail -n 5 "$3" | sed 's/^/  | /'
}

# equal WHAT IS WANTED
equal() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		not_ok "$1" "it is '$2', not '$3'"
	fi
}

# --- waiting ---------------------------------------------------------------

seconds_now() {
	cut -d . -f 1 /proc/uptime
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds
wait_for() {
	wait_end=$(($(seconds_now) + $1))
	shift
	until "$@"; do
		[ "$(seconds_now)" -lt "$wait_end" ] || return 1
		usleep 100000
	done
}

has_ended() {
	! kill -0 "$1" 2>/dev/null
}

# --- KSM -------------------------------------------------------------------

ksm() {
	cat "$KSM/$1"
}

ksm_is() {
	[ "$(ksm "$1")" = "$2" ]
}

ksm_exceeds() {
	[ "$(ksm "$1")" -gt "$2" ]
}

# set_ksm FILE VALUE...
set_ksm() {
	while [ $# -ge 2 ]; do
		echo "$2" >"$KSM/$1" || not_ok "set $1 to $2" "the write failed"
		shift 2
	done
}

# Settings with which a few thousand pages are merged within seconds.
start_ksm() {
	set_ksm pages_to_scan 2000 sleep_millisecs 10 run 1
}

# Counters that are not 0, as NAME=VALUE.
counters_left() {
	for name in $COUNTERS; do
		ksm_is "$name" 0 || printf '%s=%s ' "$name" "$(ksm "$name")"
	done
}

no_counters_left() {
	[ -z "$(counters_left)" ]
}

# With KSM running: what belonged to processes that are gone goes by itself.
check_counters_return() {
	if wait_for 60 no_counters_left; then
		ok "all counters return to 0"
	else
		not_ok "all counters return to 0" "after 60 s: $(counters_left)"
	fi
}

# Leaves KSM to the next client as it was.
reset_ksm() {
	set_ksm run 2 run 0 pages_to_scan 100 sleep_millisecs 20
}
