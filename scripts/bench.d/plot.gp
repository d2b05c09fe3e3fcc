# SPDX-License-Identifier: GPL-2.0-only
# gnuplot -e "data='FILE'; name='NAME'; out='FILE'" plot.gp: bars for the base and for
# ours, with lines from the least to the most of the rounds. NAME: merge, steady,
# metadata or writer.

set terminal svg size 900,420 font "sans-serif,13" background "white"
set output out
title = name eq "merge" ? "CPU of ksmd in pass 1 + 2, when all is seen and merged" : \
	name eq "steady" ? "CPU of ksmd per pass, when there is nothing left to merge" : \
	name eq "metadata" ? "Memory for metadata" : \
	"Time of a write to memory, ksmd off, on the other CPU, on the same"
unit = name eq "metadata" ? "bytes per page" : name eq "writer" ? "us" : "ns per page"

set label 1 title at screen 0.085, 0.955 font ",16"
set lmargin at screen 0.085
set rmargin at screen 0.98
set tmargin at screen 0.84
set key at screen 0.98, 0.90 right horizontal samplen 2
set logscale y
set yrange [*:*]
set ylabel unit offset 1
set tics nomirror out
set border 3 lc rgb "#606060"
set grid ytics lc rgb "#dddddd" lw 1
set style data histograms
set style histogram errorbars gap 1.5 lw 1.2
set style fill solid 0.85 noborder
set boxwidth 0.9
plot data using 2:3:4:xtic(1) lc rgb "#c0392b" title "base", \
     data using 5:6:7 lc rgb "#2471a3" title "ours"
