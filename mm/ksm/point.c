// SPDX-License-Identifier: GPL-2.0-only
/*
 * Points: see point.h. ksm/points in debugfs switches them on and off and tells how
 * often each was passed, and how often something was done there.
 */
#include <linux/bits.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hash.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "point.h"

/* Longest waits, in microseconds. */
#define POINT_SPIN_USECS	64
#define POINT_SLEEP_USECS	2048

DEFINE_STATIC_KEY_FALSE(ksm_points_on);

static struct {
	struct mutex lock;		/* guards the switch */
	u64 seed;
	unsigned int rate;		/* one in so many acts */
	unsigned long wanted;		/* a bit for each point that does */
	atomic_t drawn;			/* random numbers so far */
	atomic_t passed[KSM_NR_POINTS];
	atomic_t acted[KSM_NR_POINTS];
} points = {
	.lock = __MUTEX_INITIALIZER(points.lock),
};

static const char * const names[KSM_NR_POINTS] = {
	[KSM_POINT_BATCH_FULL]		= "batch_full",
	[KSM_POINT_LOCK_MM]		= "lock_mm",
	[KSM_POINT_LOCK_FOLIO]		= "lock_folio",
	[KSM_POINT_LOCK_ANON_VMA]	= "lock_anon_vma",
	[KSM_POINT_ALLOC]		= "alloc",
	[KSM_POINT_LOOK]		= "look",
	[KSM_POINT_PTE_TAKEN]		= "pte_taken",
	[KSM_POINT_STABLE_GET]		= "stable_get",
	[KSM_POINT_MIGRATE]		= "migrate",
	[KSM_POINT_COLLECTED]		= "collected",
	[KSM_POINT_HASHED]		= "hashed",
	[KSM_POINT_UNLOCKED]		= "unlocked",
	[KSM_POINT_PROMOTED]		= "promoted",
	[KSM_POINT_PROTECTED]		= "protected",
	[KSM_POINT_ATTACHED]		= "attached",
	[KSM_POINT_SWAPIN]		= "swapin",
	[KSM_POINT_FORK]		= "fork",
	[KSM_POINT_EXIT]		= "exit",
	[KSM_POINT_UNMERGE]		= "unmerge",
	[KSM_POINT_PRUNE]		= "prune",
};

/* The order in which CPUs draw is not in the seed. */
static u32 draw(void)
{
	u64 n = (u32)atomic_inc_return(&points.drawn);

	return hash_64(hash_64(READ_ONCE(points.seed) + n, 64) ^ n, 32);
}

/**
 * __ksm_point_acts - whether something is to be done at a point
 * @point: which
 *
 * Context: any.
 * Return: true at random.
 */
bool __ksm_point_acts(enum ksm_point point)
{
	unsigned int rate = READ_ONCE(points.rate);

	atomic_inc(&points.passed[point]);
	if (!(READ_ONCE(points.wanted) & BIT(point)) || !rate || draw() % rate)
		return false;
	atomic_inc(&points.acted[point]);
	return true;
}

/**
 * __ksm_point_spin - see ksm_point_spin()
 * @point: where
 *
 * Context: any.
 */
void __ksm_point_spin(enum ksm_point point)
{
	if (__ksm_point_acts(point))
		udelay(draw() % POINT_SPIN_USECS + 1);
}

/**
 * __ksm_point_sleep - see ksm_point_sleep()
 * @point: where
 *
 * Context: sleeps.
 */
void __ksm_point_sleep(enum ksm_point point)
{
	u32 usecs;

	might_sleep();
	if (!__ksm_point_acts(point))
		return;
	usecs = draw() % POINT_SLEEP_USECS;
	if (usecs < POINT_SLEEP_USECS / 4)
		schedule();
	else
		usleep_range(usecs, usecs + 1);
}

static int points_show(struct seq_file *file, void *unused)
{
	enum ksm_point point;

	seq_printf(file, "seed %llu rate %u\n", points.seed, points.rate);
	for (point = 0; point < KSM_NR_POINTS; point++)
		seq_printf(file, "%s %u %u\n", names[point],
			   (u32)atomic_read(&points.passed[point]),
			   (u32)atomic_read(&points.acted[point]));
	return 0;
}

static void switch_points(u64 seed, unsigned int rate, unsigned long wanted)
{
	guard(mutex)(&points.lock);
	memset(points.passed, 0, sizeof(points.passed));
	memset(points.acted, 0, sizeof(points.acted));
	atomic_set(&points.drawn, 0);
	WRITE_ONCE(points.seed, seed);
	WRITE_ONCE(points.wanted, wanted);
	WRITE_ONCE(points.rate, rate);
	if (rate)
		static_branch_enable(&ksm_points_on);
	else
		static_branch_disable(&ksm_points_on);
}

/* "SEED RATE [NAME]": one in RATE acts, or of that one only; "0 0" switches them off. */
static ssize_t points_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char text[64] = {}, name[32];
	unsigned int rate;
	int point, parts;
	u64 seed;

	if (size >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, from, size))
		return -EFAULT;
	parts = sscanf(text, "%llu %u %31s", &seed, &rate, name);
	if (parts < 2)
		return -EINVAL;
	point = parts > 2 ? match_string(names, KSM_NR_POINTS, name) : -1;
	if (parts > 2 && point < 0)
		return -EINVAL;
	switch_points(seed, rate, point < 0 ? ~0UL : BIT(point));
	return size;
}

static int points_open(struct inode *inode, struct file *file)
{
	return single_open(file, points_show, NULL);
}

static const struct file_operations points_fops = {
	.owner = THIS_MODULE,
	.open = points_open,
	.read = seq_read,
	.write = points_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/**
 * ksm_point_init - make their file
 * @dir: of KSM in debugfs
 */
void __init ksm_point_init(struct dentry *dir)
{
	debugfs_create_file("points", 0600, dir, NULL, &points_fops);
}
