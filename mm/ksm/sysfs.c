// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/mm/ksm: each knob and counter once, in one table.
 */
#include <linux/kobject.h>
#include <linux/ksm.h>
#include <linux/sysfs.h>

#include "ksm.h"

#ifdef CONFIG_SYSFS

/* Whatever is wrong with a number, the answer is the same. */
static int parse_uint(const char *buf, unsigned int *value)
{
	return kstrtouint(buf, 10, value) ? -EINVAL : 0;
}

/*
 * Under ksm_control nothing becomes a merged folio. Where heirs are left one may be
 * shared again, by a child that ksmd has not come to yet.
 */
static bool something_is_merged(void)
{
	ksm_registry_bury();
	if (atomic_long_read(&ksm_stat.shared))
		return true;
	smp_rmb();	/* pairs with ksm_site_bequeath() */
	return ksm_site_prune_heirs();
}

static ssize_t run_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_run));
}

/* Returns when ksmd is out of its batch and, for 2, when all is unmerged. */
static ssize_t run_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			 size_t count)
{
	unsigned int value;
	int err = parse_uint(buf, &value);

	if (err || value > KSM_RUN_UNMERGE)
		return -EINVAL;

	scoped_guard(mutex, &ksm_control) {
		if (ksm_run != value) {
			WRITE_ONCE(ksm_run, value);
			if (value == KSM_RUN_UNMERGE)
				err = ksm_unmerge_all();
			if (err)
				WRITE_ONCE(ksm_run, KSM_RUN_STOP);
		}
		if (value == KSM_RUN_MERGE)
			ksm_scan_hurry();
		/* Before ksmd can have seen it, or it would look once more. */
		ksm_scan_kick();
	}
	return err ?: count;
}

static ssize_t pages_to_scan_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_pages_to_scan));
}

/* An advisor that is on is the only one to set this. */
static ssize_t pages_to_scan_store(struct kobject *kobj, struct kobj_attribute *attr,
				   const char *buf, size_t count)
{
	unsigned int value;
	int err = parse_uint(buf, &value);

	if (err)
		return err;
	guard(mutex)(&ksm_control);
	if (ksm_advisor_mode != KSM_ADVISOR_NONE)
		return -EINVAL;
	WRITE_ONCE(ksm_pages_to_scan, value);
	ksm_scan_wake();
	return count;
}

static ssize_t sleep_millisecs_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", ksm_scan_sleep_millisecs());
}

static ssize_t sleep_millisecs_store(struct kobject *kobj, struct kobj_attribute *attr,
				     const char *buf, size_t count)
{
	unsigned int value;
	int err = parse_uint(buf, &value);

	if (err)
		return err;
	ksm_scan_set_sleep_millisecs(value);
	return count;
}

#ifdef CONFIG_NUMA
static ssize_t merge_across_nodes_show(struct kobject *kobj, struct kobj_attribute *attr,
				       char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_merge_across_nodes));
}

/* Keys of the other kind count as changed when next seen: see all soon. */
static ssize_t merge_across_nodes_store(struct kobject *kobj, struct kobj_attribute *attr,
					const char *buf, size_t count)
{
	unsigned long value;
	int err = kstrtoul(buf, 10, &value);

	if (err)
		return err;
	if (value > 1)
		return -EINVAL;
	guard(mutex)(&ksm_control);
	if (ksm_merge_across_nodes == value)
		return count;
	if (something_is_merged())
		return -EBUSY;
	WRITE_ONCE(ksm_merge_across_nodes, value);
	ksm_refresh_passes = 2;
	return count;
}
#endif

static ssize_t max_page_sharing_show(struct kobject *kobj, struct kobj_attribute *attr,
				     char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_max_page_sharing));
}

static ssize_t max_page_sharing_store(struct kobject *kobj, struct kobj_attribute *attr,
				      const char *buf, size_t count)
{
	int value, err = kstrtoint(buf, 10, &value);

	if (err)
		return err;
	/* One page that only one shares saves nothing. */
	if (value < 2)
		return -EINVAL;
	guard(mutex)(&ksm_control);
	if (ksm_max_page_sharing == value)
		return count;
	if (something_is_merged())
		return -EBUSY;
	WRITE_ONCE(ksm_max_page_sharing, value);
	return count;
}

static ssize_t advisor_mode_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	if (READ_ONCE(ksm_advisor_mode) == KSM_ADVISOR_SCAN_TIME)
		return sysfs_emit(buf, "none [scan-time]\n");
	return sysfs_emit(buf, "[none] scan-time\n");
}

static ssize_t advisor_mode_store(struct kobject *kobj, struct kobj_attribute *attr,
				  const char *buf, size_t count)
{
	static const char * const names[] = {
		[KSM_ADVISOR_NONE] = "none",
		[KSM_ADVISOR_SCAN_TIME] = "scan-time",
	};
	int mode = sysfs_match_string(names, buf);

	if (mode < 0)
		return -EINVAL;
	guard(mutex)(&ksm_control);
	ksm_advisor_set_mode(mode);
	return count;
}

/* A knob that is a boolean variable and takes effect when it is next looked at. */
#define KSM_BOOL_KNOB(name)								\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)	\
{											\
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_##name));				\
}											\
static ssize_t name##_store(struct kobject *kobj, struct kobj_attribute *attr,		\
			    const char *buf, size_t count)				\
{											\
	bool value;									\
											\
	if (kstrtobool(buf, &value))							\
		return -EINVAL;								\
	WRITE_ONCE(ksm_##name, value);							\
	return count;									\
}

/* Likewise a number, of the variable's type, from @least on. */
#define KSM_NUMBER_KNOB(name, variable, least)						\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)	\
{											\
	return sysfs_emit(buf, "%lu\n", (unsigned long)READ_ONCE(ksm_##variable));	\
}											\
static ssize_t name##_store(struct kobject *kobj, struct kobj_attribute *attr,		\
			    const char *buf, size_t count)				\
{											\
	unsigned long value;								\
											\
	if (kstrtoul(buf, 10, &value) || value < (least) ||				\
	    value != (typeof(ksm_##variable))value)					\
		return -EINVAL;								\
	WRITE_ONCE(ksm_##variable, value);						\
	return count;									\
}

/* A counter, or what follows from counters. */
#define KSM_COUNTER(name, value)							\
static ssize_t name##_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)	\
{											\
	return sysfs_emit(buf, "%ld\n", (long)(value));					\
}

KSM_BOOL_KNOB(use_zero_pages)
KSM_BOOL_KNOB(smart_scan)
KSM_NUMBER_KNOB(stable_node_chains_prune_millisecs, chains_prune_millisecs, 0)
KSM_NUMBER_KNOB(advisor_max_cpu, advisor_max_cpu, 0)
KSM_NUMBER_KNOB(advisor_min_pages_to_scan, advisor_min_pages, 0)
KSM_NUMBER_KNOB(advisor_max_pages_to_scan, advisor_max_pages, 0)
KSM_NUMBER_KNOB(advisor_target_scan_time, advisor_target_secs, 1)

KSM_COUNTER(pages_shared, atomic_long_read(&ksm_stat.shared))
KSM_COUNTER(pages_sharing, ksm_stat_sharing())
KSM_COUNTER(pages_unshared, ksm_stat_unshared())
KSM_COUNTER(pages_volatile, ksm_stat_volatile())
KSM_COUNTER(pages_scanned, atomic_long_read(&ksm_stat.scanned))
KSM_COUNTER(pages_skipped, atomic_long_read(&ksm_stat.skipped))
KSM_COUNTER(full_scans, atomic_long_read(&ksm_stat.passes))
KSM_COUNTER(ksm_zero_pages, atomic_long_read(&ksm_zero_pages))
KSM_COUNTER(general_profit, ksm_stat_profit())
KSM_COUNTER(stable_node_chains, atomic_long_read(&ksm_stat.chains))
KSM_COUNTER(stable_node_dups, atomic_long_read(&ksm_stat.dups))

static struct kobj_attribute knobs[] = {
	__ATTR_RW(run),
	__ATTR_RW(pages_to_scan),
	__ATTR_RW(sleep_millisecs),
#ifdef CONFIG_NUMA
	__ATTR_RW(merge_across_nodes),
#endif
	__ATTR_RW(use_zero_pages),
	__ATTR_RW(max_page_sharing),
	__ATTR_RW(stable_node_chains_prune_millisecs),
	__ATTR_RW(smart_scan),
	__ATTR_RW(advisor_mode),
	__ATTR_RW(advisor_max_cpu),
	__ATTR_RW(advisor_min_pages_to_scan),
	__ATTR_RW(advisor_max_pages_to_scan),
	__ATTR_RW(advisor_target_scan_time),
};

static struct kobj_attribute counters[] = {
	__ATTR_RO(pages_shared),
	__ATTR_RO(pages_sharing),
	__ATTR_RO(pages_unshared),
	__ATTR_RO(pages_volatile),
	__ATTR_RO(pages_scanned),
	__ATTR_RO(pages_skipped),
	__ATTR_RO(full_scans),
	__ATTR_RO(ksm_zero_pages),
	__ATTR_RO(general_profit),
	__ATTR_RO(stable_node_chains),
	__ATTR_RO(stable_node_dups),
};

static struct attribute *ksm_attrs[ARRAY_SIZE(knobs) + ARRAY_SIZE(counters) + 1];

static const struct attribute_group ksm_group = {
	.name = "ksm",
	.attrs = ksm_attrs,
};

/**
 * ksm_sysfs_init - make the files
 *
 * Return: 0 or an error.
 */
int __init ksm_sysfs_init(void)
{
	struct attribute **attr = ksm_attrs;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(knobs); i++)
		*attr++ = &knobs[i].attr;
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		*attr++ = &counters[i].attr;
	return sysfs_create_group(mm_kobj, &ksm_group);
}

#else

/* Without sysfs nobody could switch it on: scanning starts by itself. */
int __init ksm_sysfs_init(void)
{
	WRITE_ONCE(ksm_run, KSM_RUN_MERGE);
	return 0;
}

#endif /* CONFIG_SYSFS */
