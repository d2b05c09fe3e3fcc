# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of scripts/check.d/ksmstat: a line each few seconds.

# What is used here and not set is set there.
# shellcheck disable=SC2154

test_watch()
{
	fresh_tree ours
	LC_ALL=C expect "two lines, ASCII" 0 -w 0.1 -c 2 <"$DATA/ascii.watch"
	if has_utf8; then
		LC_ALL=C.UTF-8 expect "two lines, UTF-8" 0 -w0.1 -c 2 <"$DATA/utf8.watch"
	else
		skip "lines in UTF-8" "no locale C.UTF-8 here"
	fi
	LC_ALL=C expect "an interval without a zero" 0 -w .1 -c 2 <"$DATA/ascii.watch"
	LC_ALL=C expect "INTERVAL COUNT" 0 -w 0.1 2 <"$DATA/ascii.watch"
	LC_ALL=C expect "INTERVAL in one word, COUNT" 0 -w.1 2 <"$DATA/ascii.watch"
	put pages_sharing garbage
	LC_ALL=C expect "what is not known" 0 -w 1 -c 1 <"$DATA/unknown.watch"
}

# start_watch OUT ARGUMENT...: lines go to OUT while this goes on; its number is $watch.
start_watch()
{
	local out=$1

	shift
	: >"$said"
	KSMSTAT_ROOT=$root "$ksmstat" -w "$@" >"$out" 2>&1 </dev/null &
	watch=$!
}

# Waits until SIGTERM is caught, bit 14.
await_handler()
{
	local caught=0

	until (( 16#$caught & 1 << 14 )) || ! kill -0 "$watch" 2>/dev/null; do
		caught=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$watch/status" 2>/dev/null) || true
		: "${caught:=0}"
		sleep 0.05
	done
}

# Waits until $said has so many lines.
await_lines()
{
	while [ "$(wc -l <"$said")" -lt "$1" ] && kill -0 "$watch" 2>/dev/null; do
		sleep 0.1
	done
}

# end_watch SIGNAL: its status goes to $status; killed, it is 137.
end_watch()
{
	local tries=0

	kill -"$1" "$watch" 2>/dev/null || true
	while kill -0 "$watch" 2>/dev/null; do
		sleep 0.1
		tries=$((tries + 1))
		[ $tries -lt 100 ] || kill -KILL "$watch" 2>/dev/null || true
	done
	status=0
	wait "$watch" 2>/dev/null || status=$?
}

test_watch_signals()
{
	local before pipe=$scratch/pipe full

	fresh_tree ours
	start_watch "$said" 100
	await_lines 2
	end_watch TERM
	if [ "$status" -eq 0 ] && [ "$(wc -l <"$said")" -eq 2 ]; then
		pass
	else
		fail "a signal ends it, status $status" <"$said"
	fi

	# Twenty lines are missed.
	start_watch "$said" 0.1
	await_lines 4
	kill -STOP "$watch"
	before=$(wc -l <"$said")
	sleep 2
	kill -CONT "$watch"
	await_lines $((before + 2))
	sleep 0.3
	end_watch TERM
	if [ "$status" -eq 0 ] && [ "$(wc -l <"$said")" -lt $((before + 19)) ]; then
		pass
	else
		fail "lines that were missed, status $status, $before before" <"$said"
	fi

	# A pipe that is full already.
	mkfifo "$pipe"
	exec {full}<>"$pipe"
	dd if=/dev/zero of="$pipe" oflag=nonblock bs=512 status=none 2>/dev/null || true
	start_watch "$pipe" 0.1
	await_handler
	end_watch TERM
	exec {full}>&-
	holds "a signal ends it while nobody reads, status $status" [ "$status" -eq 0 ]
}

# at_width COLUMNS: the longest of 14 lines on a terminal so wide, in $longest.
at_width()
{
	run script -qec "stty cols $1 && '$ksmstat' -w 0.1 -c 14" /dev/null
	longest=$(tr -d '\r' <"$said" | awk '{ if (length > n) n = length } END { print n + 0 }')
}

test_watch_width()
{
	local longest

	fresh_tree ours
	run "$ksmstat" -w 0.1 -c 14
	longest=$(awk '{ if (length > n) n = length } END { print n }' "$said")
	holds "80 columns where there is no terminal, not $longest" [ "$longest" -eq 80 ]
	if ! command -v script >/dev/null || ! command -v stty >/dev/null; then
		skip "lines on a terminal" "no script or no stty here"
		return
	fi
	at_width 200
	holds "all of the history, 86 columns, not $longest" [ "$longest" -eq 86 ]
	at_width 79
	holds "79 columns, not $longest" [ "$longest" -eq 79 ]
	at_width 73
	holds "73 columns: no history, not $longest" [ "$longest" -eq 72 ]
	at_width 60
	holds "60 columns: no bar, not $longest" [ "$longest" -eq 60 ]
}
