# SPDX-License-Identifier: GPL-2.0-only
# awk -v size=MIB -v dir=DIR -f figures.awk -f plot.awk FILE
# Writes DIR/plot-NAME.dat for plot.gp: a name, then median, least and most of the
# base and of ours.

END {
	n = split("unique look-alike twins mixed churn sparse small redis", loads, " ")
	for (i = 1; i <= n; i++) {
		data("merge", loads[i], loads[i], "pass12_ns")
		data("steady", loads[i], loads[i], "steady_ns")
		data("metadata", loads[i], loads[i], "metadata_bytes")
	}
	n = split("off other same", places, " ")
	for (i = 1; i <= n; i++)
		for (kind = 0; kind < 2; kind++)
			data("writer", places[i] (kind ? ", longest" : ", 99 %"), "writer",
			     (kind ? "write_max_us_" : "write_p99_us_") places[i])
}

function data(plot, name, load, figure,    base, ours) {
	base = "base" SUBSEP size SUBSEP load SUBSEP figure
	ours = "ours" SUBSEP size SUBSEP load SUBSEP figure
	if (!count[base] || !count[ours])
		return
	printf "\"%s\" %g %g %g %g %g %g\n", name, median(base), least(base), most(base),
	       median(ours), least(ours), most(ours) > (dir "/plot-" plot ".dat")
}
