// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/mm/ksm: each knob and counter once, in one table.
 */
#include <linux/kobject.h>
#include <linux/sysfs.h>

#include "ksm.h"

#ifdef CONFIG_SYSFS

/* Whatever is wrong with a number, the answer is the same. */
static int parse_uint(const char *buf, unsigned int *value)
{
	return kstrtouint(buf, 10, value) ? -EINVAL : 0;
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
	}
	ksm_scan_kick();
	return err ?: count;
}

static ssize_t pages_to_scan_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ksm_pages_to_scan));
}

static ssize_t pages_to_scan_store(struct kobject *kobj, struct kobj_attribute *attr,
				   const char *buf, size_t count)
{
	unsigned int value;
	int err = parse_uint(buf, &value);

	if (err)
		return err;
	WRITE_ONCE(ksm_pages_to_scan, value);
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

static ssize_t pages_shared_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ksm_stat.shared));
}

static ssize_t pages_sharing_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", ksm_stat_sharing());
}

static ssize_t pages_unshared_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ksm_stat.records[KSM_CANDIDATE]));
}

static ssize_t pages_volatile_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", ksm_stat_volatile());
}

static ssize_t pages_scanned_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ksm_stat.scanned));
}

static ssize_t full_scans_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ksm_stat.passes));
}

static ssize_t general_profit_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", ksm_stat_profit());
}

static struct kobj_attribute knobs[] = {
	__ATTR_RW(run),
	__ATTR_RW(pages_to_scan),
	__ATTR_RW(sleep_millisecs),
};

static struct kobj_attribute counters[] = {
	__ATTR_RO(pages_shared),
	__ATTR_RO(pages_sharing),
	__ATTR_RO(pages_unshared),
	__ATTR_RO(pages_volatile),
	__ATTR_RO(pages_scanned),
	__ATTR_RO(full_scans),
	__ATTR_RO(general_profit),
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
