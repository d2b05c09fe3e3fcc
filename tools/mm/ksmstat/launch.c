// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs a program with all its memory offered for merging. That stays over exec, and
 * its children inherit it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "ksmstat.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE	67
#endif

/* It may have been given to an older kernel, so the program is run all the same. */
static void warn_if_forgotten(void)
{
	struct utsname name;
	unsigned int major, minor;

	if (!uname(&name) && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	    (major < 6 || (major == 6 && minor < 7)))
		complain("Linux %u.%u may forget on exec that memory is offered; 6.7 does not",
			 major, minor);
}

static void warn_if_off(void)
{
	struct figure run = ksm_file_read(KSM_RUN);

	if (!run.err && run.value != RUN_ON)
		complain("KSM is off: nothing will be merged until 'ksmstat on'");
}

/**
 * launch - become a program
 * @words: the program and its arguments
 *
 * Return: an exit status, if that fails.
 */
int launch(char **words)
{
	int err;

	if (prctl(PR_SET_MEMORY_MERGE, 1UL, 0UL, 0UL, 0UL)) {
		if (errno == EINVAL)
			complain("this kernel cannot do that: it has no KSM, or is older than 6.4");
		else
			complain("memory cannot be offered for merging: %s", strerror(errno));
		return EXIT_RUN_FAILED;
	}
	warn_if_forgotten();
	warn_if_off();
	execvp(words[0], words);
	err = errno;
	complain("%s: %s", words[0], strerror(err));
	return err == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}
