// SPDX-License-Identifier: GPL-2.0-only
/*
 * launch PROGRAM [ARGUMENT...]: make the whole process mergeable, then become
 * PROGRAM. The setting is kept over exec, so PROGRAM needs no change.
 */
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: launch PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) {
		perror("launch: prctl(PR_SET_MEMORY_MERGE)");
		return 1;
	}
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}
