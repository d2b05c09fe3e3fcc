#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The demo, inside its virtual machine. Lines that begin with '@' are figures
# for the plot; all others are for the reader. Exits non-zero if anything was
# wrong; every fault is named where it is found and again at the end.
#
# From the environment:
#   PAGES_TO_SCAN, SLEEP_MILLISECS  how fast ksmd goes
#   MERGE_LIMIT                     seconds that merging may take
#   FAULT                           corrupt or off: does something wrong on
#                                   purpose, which must be noticed
#
# Our own programs are called by path: busybox's shell prefers its own "watch".
# Lists of servers are split into words, and look() assigns by eval:
# shellcheck disable=SC2046,SC2086,SC2154
set -u

SERVERS=8
WRITTEN=3			# the server that is written to
DATA=/demo/data.resp
KSM=/sys/kernel/mm/ksm
MIN_SHARE=50			# percent of the other copies, to be saved
FAULTS=/run/faults

: "${PAGES_TO_SCAN:=1000}" "${SLEEP_MILLISECS:=10}" "${MERGE_LIMIT:=120}" "${FAULT:=}"

# Words like "3 8": numbers of servers. all: every one; others: all but WRITTEN.
all=$(seq $SERVERS)
others=$(seq $SERVERS | grep -vx $WRITTEN)

uptime_now() {
	cut -d ' ' -f 1 /proc/uptime
}

# calc EXPRESSION: its value with one decimal
calc() {
	awk "BEGIN { printf(\"%.1f\", ($1)) }"
}

# holds CONDITION: of numbers that may have decimals
holds() {
	awk "BEGIN { exit !($1) }"
}

phase() {
	phase_start=$(uptime_now)
	echo "@phase $phase_start $1"
	echo
	echo "== $2"
}

phase_done() {
	echo "   took $(calc "$(uptime_now) - $phase_start") s"
}

fault() {
	echo "   WRONG: $*"
	echo "$*" >> $FAULTS
}

# Ends a demo that cannot go on.
give_up() {
	fault "$*"
	summary_of_faults
	exit 1
}

summary_of_faults() {
	[ -s $FAULTS ] || return 0
	echo
	sed 's/^/demo: FAILED: /' $FAULTS
	return 1
}

sockets() {
	for i in "$@"; do
		echo "/run/redis-$i.sock"
	done
}

pid_of() {
	cat "/run/redis-$1.pid"
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds
wait_for() {
	deadline=$(calc "$(uptime_now) + $1")
	shift
	until "$@"; do
		holds "$(uptime_now) < $deadline" || return 1
		usleep 50000
	done
}

is_alive() {
	kill -0 "$(pid_of "$1")" 2> /dev/null
}

is_listening() {
	[ -S "/run/redis-$1.sock" ]
}

# A server that has died will not listen any more.
is_listening_or_dead() {
	is_listening "$1" || ! is_alive "$1"
}

start_server() {
	/demo/launch redis-server /demo/redis.conf --unixsocket "/run/redis-$1.sock" \
		> "/run/redis-$1.log" 2>&1 &
	echo $! > "/run/redis-$1.pid"
}

start_servers() {
	phase start "start $SERVERS redis servers, each made mergeable by its launcher"
	for i in $all; do
		start_server "$i"
	done
	for i in $all; do
		wait_for 60 is_listening_or_dead "$i"
		is_listening "$i" ||
			give_up "redis server $i did not start: $(tail -n 1 "/run/redis-$i.log")"
		grep -q 'ksm_merge_any: yes' "/proc/$(pid_of "$i")/ksm_stat" ||
			give_up "redis server $i is not mergeable (ksm_merge_any)"
	done
	phase_done
}

load_data() {
	phase load "load the same data set into each"
	/demo/store load $DATA $(sockets $all) > /run/store.out ||
		give_up "loading failed: $(tail -n 1 /run/store.out)"
	sed 's/^/   /' /run/store.out
	value_bytes=$(awk '{ print $4 }' /run/store.out)
	phase_done
}

# take_digests NAME: of all servers at once, into /run/digest-SERVER.NAME
take_digests() {
	jobs=
	for i in $all; do
		redis-cli -s "/run/redis-$i.sock" DEBUG DIGEST > "/run/digest-$i.$1" 2>&1 &
		jobs="$jobs $!"
	done
	wait $jobs
	for i in $all; do
		grep -qE '^[0-9a-f]{40}$' "/run/digest-$i.$1" ||
			fault "server $i gave no digest: $(head -n 1 "/run/digest-$i.$1")"
	done
}

# check_equal NAME WHEN SERVER...: digests as before KSM was on, which are equal
check_equal() {
	name=$1 when=$2
	shift 2
	good=0
	for i in "$@"; do
		if cmp -s "/run/digest-$i.$name" /run/digest-1.before; then
			good=$((good + 1))
		else
			fault "$when: the digest of server $i is not what it was"
		fi
	done
	echo "   digests: $good of $# as before KSM was on ($(head -c 12 /run/digest-1.before)...)"
}

# check_contents VERB WHEN SERVER...: every byte of every value
check_contents() {
	verb=$1 when=$2
	shift 2
	if /demo/store "$verb" $DATA $(sockets "$@") > /run/store.out 2>&1; then
		echo "   contents, every byte: $(cat /run/store.out)"
	else
		sed 's/^/   /' /run/store.out
		fault "$when: contents of a server are wrong ($(head -n 1 /run/store.out))"
	fi
}

check_before() {
	phase check "check the data before KSM is on"
	take_digests before
	check_equal before "before KSM was on" $all
	phase_done
}

# Anonymous pages of all servers: what KSM can work on.
servers_pages() {
	for i in $all; do
		cat "/proc/$(pid_of "$i")/status"
	done | awk '/^RssAnon:/ { kib += $2 } END { print int(kib / 4) }'
}

# Pages that the servers' page tables map from KSM, whatever the counters say.
mapped_ksm_pages() {
	for i in $all; do
		cat "/proc/$(pid_of "$i")/smaps_rollup"
	done | awk '/^KSM:/ { kib += $2 } END { print int(kib / 4) }'
}

cow_count() {
	awk '$1 == "cow_ksm" { print $2 }' /proc/vmstat
}

# look NAME: takes a snapshot; its figures become NAME_available, NAME_cpu ...
look() {
	for word in $(/demo/watch snapshot); do
		eval "$1_$word"
	done
}

merge() {
	phase merge "switch KSM on: pages_to_scan $PAGES_TO_SCAN, sleep_millisecs $SLEEP_MILLISECS"
	look before
	echo "$PAGES_TO_SCAN" > $KSM/pages_to_scan
	echo "$SLEEP_MILLISECS" > $KSM/sleep_millisecs
	[ "$FAULT" = off ] || echo 1 > $KSM/run
	if /demo/watch table "$(servers_pages)" "$MERGE_LIMIT"; then
		echo "   the last two passes added nothing"
	else
		fault "KSM did not settle within $MERGE_LIMIT s"
	fi
	look merged
	phase_done
}

# The page tables and the free memory must bear out what the counters say.
check_counters() {
	mapped=$(mapped_ksm_pages)
	counted=$((merged_shared + merged_sharing))
	gained=$(calc "$merged_available - $before_available")
	echo "   page tables map $mapped KSM pages, the counters say $counted"
	holds "$mapped >= 0.98 * $counted && $mapped <= 1.02 * $counted" ||
		fault "page tables map $mapped KSM pages, the counters say $counted"
	echo "   available memory rose by $gained MiB, the counters say $merged_saved MiB"
	holds "$gained >= 0.8 * $merged_saved" ||
		fault "$merged_saved MiB are counted as saved, but available memory rose by $gained MiB only"
}

check_merged() {
	phase check "check the data while it is merged"
	[ "$FAULT" != corrupt ] ||
		redis-cli -s /run/redis-5.sock SETRANGE key:000100 50 X > /dev/null
	check_counters
	take_digests merged
	check_equal merged "merged" $all
	check_contents verify "merged" $all
	phase_done
}

write_to_one() {
	phase write "write to server $WRITTEN: 500 keys replaced, 500 overwritten in place"
	cow_before=$(cow_count)
	/demo/store change $DATA $(sockets $WRITTEN) > /run/store.out 2>&1 ||
		fault "writing failed: $(head -n 1 /run/store.out)"
	copies=$(($(cow_count) - cow_before))
	echo "   $copies pages were copied on write"
	[ "$copies" -gt 0 ] || fault "the writes met no merged page (cow_ksm did not move)"
	check_after_write written "after the write"
	phase_done
}

# check_after_write NAME WHEN: one server holds the change, the others do not
check_after_write() {
	take_digests "$1"
	check_equal "$1" "$2" $others
	if cmp -s "/run/digest-$WRITTEN.$1" /run/digest-1.before; then
		fault "$2: the digest of server $WRITTEN did not change"
	fi
	check_contents verify-changed "$2" $WRITTEN
}

unmerge() {
	phase unmerge "unmerge everything (run = 2)"
	echo 2 > $KSM/run || fault "writing 2 to run failed"
	look after
	echo "   pages shared $after_shared, sharing $after_sharing; page tables map $(mapped_ksm_pages) KSM pages"
	[ "$after_shared $after_sharing" = "0 0" ] ||
		fault "after unmerging, pages_shared is $after_shared and pages_sharing $after_sharing"
	[ "$(mapped_ksm_pages)" = 0 ] ||
		fault "after unmerging, page tables still map $(mapped_ksm_pages) KSM pages"
	phase_done
}

check_unmerged() {
	phase check "check the data after unmerging"
	check_after_write unmerged "unmerged"
	check_contents verify "unmerged" $others
	cmp -s "/run/digest-$WRITTEN.unmerged" "/run/digest-$WRITTEN.written" ||
		fault "unmerged: the digest of server $WRITTEN is not what it was when merged"
	phase_done
}

check_servers_alive() {
	for i in $all; do
		is_alive "$i" || fault "redis server $i has died"
	done
}

summary() {
	copies_mib=$(calc "$((SERVERS - 1)) * $value_bytes / 1048576")
	cpu=$(awk "BEGIN { printf \"%.2f\", $merged_cpu - $before_cpu }")
	share=$(calc "100 * $merged_saved / $copies_mib")
	echo
	echo "== summary"
	echo "   memory available, MiB:  before $before_available   merged $merged_available   after unmerging $after_available"
	echo "   saved by merging:       $merged_saved MiB"
	echo "   of seven copies:        $share % of $copies_mib MiB (at least $MIN_SHARE % wanted)"
	echo "   CPU of ksmd:            $cpu s until it found nothing more"
	echo "   MiB saved per CPU s:    $(calc "$cpu > 0 ? $merged_saved / $cpu : 0")"
	holds "$share >= $MIN_SHARE" ||
		fault "only $share % of seven copies were saved, at least $MIN_SHARE % are wanted"
}

rm -f $FAULTS
[ -e $KSM/run ] || give_up "this kernel has no KSM ($KSM/run)"
/demo/watch samples &
sampler=$!
start_servers
load_data
check_before
merge
check_merged
write_to_one
unmerge
check_unmerged
echo "@phase $(uptime_now) end"
check_servers_alive
kill $sampler
summary
summary_of_faults
