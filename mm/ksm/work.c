// SPDX-License-Identifier: GPL-2.0-only
/*
 * KSM in debugfs: counters of work in ksm/work.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/seq_file.h>

#include "check.h"
#include "work.h"

atomic_long_t ksm_work[KSM_NR_WORK];

static const char * const names[KSM_NR_WORK] = {
	[KSM_WORK_HASHED]	= "pages_hashed",
	[KSM_WORK_STEPS]	= "tree_steps",
	[KSM_WORK_COMPARED]	= "pages_compared",
	[KSM_WORK_HANDED_OVER]	= "dirty_bits_handed_over",
};

static int work_show(struct seq_file *file, void *unused)
{
	enum ksm_work what;

	for (what = 0; what < KSM_NR_WORK; what++)
		seq_printf(file, "%s %ld\n", names[what], atomic_long_read(&ksm_work[what]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(work);

/* Who cannot look does without: no error is an error here. */
static int __init ksm_debugfs_init(void)
{
	struct dentry *dir = debugfs_create_dir("ksm", NULL);

	debugfs_create_file("work", 0444, dir, NULL, &work_fops);
	ksm_check_init(dir);
	return 0;
}
late_initcall(ksm_debugfs_init);
