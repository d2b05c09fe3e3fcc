# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Functions shared by the scripts. Source it after `set -euo pipefail`.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$TOP/build
LOGS=$BUILD/log
export BASE=$BUILD/linux
export TREE=$BUILD/tree
export SUPPORTED=7.3

export LC_ALL=C
unset CDPATH

say()
{
	printf '%s\n' "$*"
}

warn()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die()
{
	warn "$*"
	exit 1
}

[[ $TOP != *[[:space:]:]* ]] ||
	die "the path '$TOP' has a blank or a colon in it, which the kernel's make cannot handle"

# A command that fails where nobody expected it must not end a script in silence.
# (A script that calls another, which names its errors itself, adds `|| exit`.)
unexpected()
{
	[[ $- == *e* ]] || return 0
	warn "line $1: '$2' failed with status $3"
}
set -E
trap 'unexpected "$LINENO" "$BASH_COMMAND" "$?"' ERR

# --- input -----------------------------------------------------------------

# need_number NAME VALUE: a setting from the user that must be 1 or more.
need_number()
{
	[[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die "$1=$2 is not a positive number"
}

# --- disk ------------------------------------------------------------------

free_mib()
{
	df -Pk "$BUILD" | awk 'NR == 2 { print int($4 / 1024) }'
}

# need_disk MIB WHAT: stops when build/ has not so much room left.
need_disk()
{
	local free

	mkdir -p "$BUILD"
	free=$(free_mib)
	[ "$free" -ge "$1" ] ||
		die "$2 needs $1 MiB of disk in $BUILD, only $free MiB are free"
}

# --- one run at a time -----------------------------------------------------

# lock_build [NAME]: two runs that write to one place would spoil each other's
# work. The scripts that the holder of a lock calls share it.
lock_build()
{
	local name=${1:-tree}

	[[ " ${KSM_LOCKS_HELD:-} " != *" $name "* ]] || return 0
	mkdir -p "$BUILD/lock"
	exec {lock_fd}>"$BUILD/lock/$name"
	if ! flock -n "$lock_fd"; then
		say "waiting for another run that uses build/$name"
		flock "$lock_fd"
	fi
	export KSM_LOCKS_HELD="${KSM_LOCKS_HELD:-} $name"
}

# --- steps: progress, time taken, logs --------------------------------------

seconds_text()
{
	if [ "$1" -lt 60 ]; then
		printf '%d s' "$1"
	else
		printf '%d min %d s' $(($1 / 60)) $(($1 % 60))
	fi
}

# How far a build is: the lines that make printed one for each thing built,
# of about STEP_TOTAL where the caller knows.
step_progress()
{
	local built

	built=$(grep -cE '^ +[A-Z]+[A-Z0-9_]* ' "$1" 2>/dev/null || true)
	[ "${built:-0}" -gt 0 ] || return 0
	if [ -n "${STEP_TOTAL:-}" ]; then
		printf ', %d of about %d built' "$built" "$STEP_TOTAL"
	else
		printf ', %d built' "$built"
	fi
}

# Draws the running step's line again each second, while the step runs.
step_ticker()
{
	local title=$1 log=$2 start=$SECONDS

	while sleep 1 && kill -0 $$ 2>/dev/null; do
		printf '\r\033[K%s ... %s%s' "$title" \
			"$(seconds_text $((SECONDS - start)))" "$(step_progress "$log")"
	done
}

# The lines that tell why a command failed: its errors, else its last words.
last_errors()
{
	local lines

	lines=$(grep -aiE '(^|[^a-z_-])(fatal|error|undefined reference|cannot|no space left|not found|failed|denied)' "$1" |
		grep -avE "^ +[A-Z]+[A-Z0-9_]* |' failed with status " | tail -n 8 || true)
	[ -n "$lines" ] || lines=$(tail -n 8 "$1")
	[ -z "$lines" ] || printf '%s\n' "$lines" | sed 's/^/  | /'
}

# step TITLE LOGNAME COMMAND...: runs a command with its output in
# build/log/LOGNAME.log; tells how long it took, or ends the script with the
# last errors and the log's path.
step()
{
	local title=$1 log=$LOGS/$2.log start=$SECONDS rc ticker=

	shift 2
	mkdir -p "$LOGS"
	if [ -t 1 ]; then
		printf '%s ...' "$title"
		step_ticker "$title" "$log" &
		ticker=$!
	else
		say "$title ..."
	fi
	set +e
	(set -e; "$@") >"$log" 2>&1 </dev/null
	rc=$?
	set -e
	if [ -n "$ticker" ]; then
		kill "$ticker" 2>/dev/null || true
		wait "$ticker" 2>/dev/null || true
		printf '\r\033[K'
	fi
	if [ "$rc" -ne 0 ]; then
		warn "$title: failed after $(seconds_text $((SECONDS - start))); full log: $log"
		last_errors "$log" >&2
		[ "$(free_mib)" -ge 16 ] || warn "the disk of $BUILD is full"
		exit 1
	fi
	say "$title: done in $(seconds_text $((SECONDS - start)))"
}

# --- kernel trees ----------------------------------------------------------

# kernel_version DIR: prints VERSION.PATCHLEVEL.SUBLEVEL; fails where DIR is no
# kernel tree.
kernel_version()
{
	local v

	[ -f "$1/Makefile" ] && [ -f "$1/Kconfig" ] && [ -f "$1/mm/Kconfig" ] || return 1
	v=$(awk -F ' *= *' '
		$1 == "VERSION" { v = $2 } $1 == "PATCHLEVEL" { p = $2 }
		$1 == "SUBLEVEL" { s = $2 } $1 == "EXTRAVERSION" { e = $2; exit }
		END { if (v != "" && p != "") print v "." p "." s e }' "$1/Makefile")
	[ -n "$v" ] && printf '%s\n' "$v"
}

is_supported()
{
	[[ $1 == "$SUPPORTED" || $1 == "$SUPPORTED".* || $1 == "$SUPPORTED"-* ]]
}

# --- programs that may come from more than one place ------------------------

# The server's own package would start a daemon on the user's machine, so
# scripts/deps only unpacks it, to build/redis.
find_redis_server()
{
	local f

	for f in /usr/bin/redis-server "$BUILD/redis/usr/bin/redis-server"; do
		[ -x "$f" ] && { printf '%s\n' "$f"; return 0; }
	done
	return 1
}
