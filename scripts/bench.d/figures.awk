# SPDX-License-Identifier: GPL-2.0-only
# Reads the results of scripts/bench: all values of each figure over the rounds.
# Other programs ask for median(), least() and most() with a key, which is
# kernel SUBSEP size in MiB SUBSEP workload SUBSEP figure.

BEGIN { FS = "," }

/^#/ || $1 == "kernel" { next }

{
	add($1, $2, $3, $5, $6)
	round = $1 SUBSEP $2 SUBSEP $3 SUBSEP $4
	if ($5 == "pass1_ns")
		first[round] = $6
	if ($5 == "pass2_ns")
		add($1, $2, $3, "pass12_ns", first[round] + $6)
	if ($5 == "foreign_cpu_percent" && $2 == size) {
		runs++
		busy += $6 > quiet
		busiest = $6 > busiest ? $6 : busiest
	}
}

# Keeps the values of a figure in order.
function add(kernel, mib, workload, figure, v,    key, i) {
	key = kernel SUBSEP mib SUBSEP workload SUBSEP figure
	for (i = ++count[key]; i > 1 && value[key, i - 1] > v + 0; i--)
		value[key, i] = value[key, i - 1]
	value[key, i] = v + 0
	if (mib == size)
		seen[workload] = 1
}

function median(key,    n) {
	n = count[key]
	return (value[key, int((n + 1) / 2)] + value[key, int(n / 2) + 1]) / 2
}

function least(key) {
	return value[key, 1]
}

function most(key) {
	return value[key, count[key]]
}
