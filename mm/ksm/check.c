// SPDX-License-Identifier: GPL-2.0-only
/*
 * The checker: whether what is written down agrees with what is.
 *
 * Writing to ksm/check in debugfs stops the scanner and goes through the page
 * tables and records of all registered mms, both forests and all stable nodes.
 * Applications go on meanwhile. What a lock holds still is checked under it and
 * must be right at any time. Sums can only be compared when nothing has moved
 * while they were taken: else they are taken again, a few times.
 */
#include <linux/debugfs.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "check.h"

/* How often sums are taken until they can be compared. */
#define CHECK_ATTEMPTS		5

/* What is kept count of. */
struct figures {
	long records[KSM_NR_STATES];
	long shared;
	long chains;
	long dups;
	long bytes;
};

static struct {
	unsigned long runs;
	unsigned long wrong;	/* disagreements of the last run */
	bool compared;		/* its sums came to a rest */
} check_result;		/* ksm_control */

/*
 * An mm that is going away, its sites first and its mappings then. A reference keeps
 * the struct, not its page tables, until the next one comes or the checker asks.
 */
struct leaver {
	struct list_head link;
	struct mm_struct *mm;
};

static LIST_HEAD(leavers);
static DEFINE_SPINLOCK(leavers_lock);	/* innermost */

/**
 * ksm_check_leave - the sites of an mm are about to go, and its mappings later
 * @mm: nobody uses it any more
 *
 * Context: may sleep.
 */
void ksm_check_leave(struct mm_struct *mm)
{
	struct leaver *leaver = kmalloc_obj(struct leaver, GFP_KERNEL | __GFP_NOFAIL);

	ksm_check_anyone_leaves();
	mmgrab(mm);
	leaver->mm = mm;
	guard(spinlock)(&leavers_lock);
	list_add(&leaver->link, &leavers);
}

/**
 * ksm_check_anyone_leaves - whether pages may be mapped that have no site any more
 *
 * Context: may sleep.
 * Return: true if an exit has come to its sites, but not to the end of unmapping.
 */
bool ksm_check_anyone_leaves(void)
{
	struct leaver *leaver, *next;
	LIST_HEAD(gone);
	bool any;

	scoped_guard(spinlock, &leavers_lock) {
		list_for_each_entry_safe(leaver, next, &leavers, link)
			/* exit_mmap() is done with it; if that is seen late no harm is done. */
			if (data_race(mtree_empty(&leaver->mm->mm_mt)))
				list_move(&leaver->link, &gone);
		any = !list_empty(&leavers);
	}
	list_for_each_entry_safe(leaver, next, &gone, link) {
		mmdrop(leaver->mm);
		kfree(leaver);
	}
	return any;
}

/**
 * ksm_disagree - report a disagreement
 * @check: the run
 * @format: of printf(), without a newline
 *
 * Context: any.
 */
void ksm_disagree(struct ksm_check *check, const char *format, ...)
{
	struct va_format text;
	va_list args;

	if (check->wrong++ >= KSM_CHECK_PRINTED)
		return;
	va_start(args, format);
	text = (struct va_format){ .fmt = format, .va = &args };
	pr_err("ksm: check: %pV\n", &text);
	va_end(args);
}

/* ---- forests ---- */

/* The node that should stand before another one does so, and in the right tree. */
static void check_order(struct ksm_check *check, const struct ksm_forest *forest,
			const struct ksm_root *root, const struct ksm_node *before,
			const struct ksm_node *node)
{
	if (ksm_forest_root(forest, node->key) != root)
		ksm_disagree(check, "key %llx is in another key's tree", node->key);
	if (before && before->key > node->key)
		ksm_disagree(check, "key %llx stands before %llx", before->key, node->key);
}

static struct ksm_node *tree_first(const struct ksm_root *root)
{
	struct rb_node *rb = rb_first(&root->tree);

	return rb ? rb_entry(rb, struct ksm_node, rb) : NULL;
}

static struct ksm_node *tree_next(const struct ksm_node *node)
{
	struct rb_node *rb = rb_next(&node->rb);

	return rb ? rb_entry(rb, struct ksm_node, rb) : NULL;
}

/* Those with room stand before those without; returns how many have the key. */
static unsigned int check_chain(struct ksm_check *check, struct ksm_node *first)
{
	struct ksm_node *node = first;
	unsigned int nr = 0;
	bool full = false;

	for (; node; node = ksm_node_next_equal(node), nr++) {
		struct ksm_stable *stable = container_of(node, struct ksm_stable, node);

		if (full && !stable->full)
			ksm_disagree(check, "key %llx: a node with room behind full ones",
				     node->key);
		full = stable->full;
		if (!stable->nr_sites && !stable->nr_heirs && list_empty(&stable->heirs))
			ksm_disagree(check, "key %llx: a node without sites", node->key);
	}
	return nr;
}

static void check_stable_root(struct ksm_check *check, struct ksm_root *root)
{
	struct ksm_node *node, *before = NULL;

	guard(spinlock)(&root->lock);
	for (node = tree_first(root); node; before = node, node = tree_next(node)) {
		unsigned int nr;

		check_order(check, ksm_stable_forest(), root, before, node);
		if (before && before->key == node->key)
			continue;
		nr = check_chain(check, node);
		check->census.chains += nr > 1;
		check->census.dups += nr > 1 ? nr : 0;
	}
}

static void check_unstable_root(struct ksm_check *check, struct ksm_root *root)
{
	struct ksm_node *node, *before = NULL;

	guard(spinlock)(&root->lock);
	for (node = tree_first(root); node; before = node, node = tree_next(node)) {
		check_order(check, ksm_unstable_forest(), root, before, node);
		check->census.candidates++;
	}
}

static void check_forest(struct ksm_check *check, const struct ksm_forest *forest,
			 void (*check_root)(struct ksm_check *check, struct ksm_root *root))
{
	unsigned long i;

	for (i = 0; i < ksm_forest_trees(forest); i++) {
		check_root(check, &forest->roots[i]);
		cond_resched();
	}
}

/* ---- nodes that have heirs ---- */

/*
 * With ksm_control held a node on the list stays in being. Those that have sites
 * of their own are met by the records, too.
 */
static void check_heirs(struct ksm_check *check)
{
	unsigned int left = ksm_site_nr_heirs();
	struct ksm_stable *stable;

	while (left-- && (stable = ksm_site_next_with_heirs())) {
		struct folio *folio = ksm_stable_lock_folio(stable, true);
		struct ksm_root *root = ksm_stable_root(stable);
		bool alone;

		scoped_guard(spinlock, &root->lock) {
			check->census.heirs += stable->nr_heirs;
			alone = !stable->nr_sites;
			if (alone)
				ksm_check_node(check, stable);
		}
		if (alone)
			check->census.stables++;
		if (folio) {
			if (alone)
				ksm_check_folio(check, stable, folio);
			folio_unlock(folio);
			folio_put(folio);
		}
		cond_resched();
	}
}

/* ---- registered mms ---- */

static int check_mms(struct ksm_check *check)
{
	struct ksm_mm **kmms;
	unsigned long nr, i;

	kmms = ksm_registry_list(&nr);
	if (!kmms)
		return -ENOMEM;
	check->census.mms = nr;
	for (i = 0; i < nr; i++) {
		ksm_check_mm(check, kmms[i]);
		ksm_mm_put(kmms[i]);
		cond_resched();
	}
	kvfree(kmms);
	return 0;
}

/* ---- sums ---- */

static void read_figures(struct figures *figures)
{
	enum ksm_state state;

	memset(figures, 0, sizeof(*figures));
	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++)
		figures->records[state] = atomic_long_read(&ksm_stat.records[state]);
	figures->shared = atomic_long_read(&ksm_stat.shared);
	figures->chains = atomic_long_read(&ksm_stat.chains);
	figures->dups = atomic_long_read(&ksm_stat.dups);
	figures->bytes = atomic_long_read(&ksm_stat.bytes);
}

static long census_bytes(const struct ksm_census *census)
{
	return census->mms * sizeof(struct ksm_mm) + census->track_bytes +
	       census->candidates * sizeof(struct ksm_candidate) +
	       census->stables * sizeof(struct ksm_stable) +
	       (census->sites + census->heirs) * sizeof(struct ksm_site) + ksm_sight_bytes();
}

static bool same(struct ksm_check *check, bool report, const char *what, long counted, long kept)
{
	if (counted != kept && report)
		ksm_disagree(check, "%s: counted %ld, should be %ld", what, counted, kept);
	return counted == kept;
}

static bool sums_agree(struct ksm_check *check, const struct figures *figures, bool report)
{
	static const char * const states[] = {
		[KSM_HASHED]	= "hashed pages",
		[KSM_CLEANED]	= "cleaned pages",
		[KSM_SETTLED]	= "settled pages",
		[KSM_CANDIDATE]	= "candidates",
		[KSM_MERGED]	= "merged pages",
	};
	const struct ksm_census *census = &check->census;
	enum ksm_state state;
	bool agree = true;

	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++)
		agree &= same(check, report, states[state], census->records[state],
			      figures->records[state]);
	agree &= same(check, report, "nodes of candidates", census->candidates,
		      figures->records[KSM_CANDIDATE]);
	agree &= same(check, report, "sites", census->sites, figures->records[KSM_MERGED]);
	agree &= same(check, report, "shared nodes", census->shared, figures->shared);
	agree &= same(check, report, "chains", census->chains, figures->chains);
	agree &= same(check, report, "nodes of chains", census->dups, figures->dups);
	agree &= same(check, report, "bytes of metadata", census_bytes(census), figures->bytes);
	return agree;
}

/* ---- the run ---- */

/* Returns whether sums could be compared and agreed, or a negative error. */
static int attempt(struct ksm_check *check, bool last)
{
	struct figures before, after;
	int err;

	memset(&check->census, 0, sizeof(check->census));
	read_figures(&before);
	err = check_mms(check);
	if (err)
		return err;
	check_heirs(check);
	check_forest(check, ksm_stable_forest(), check_stable_root);
	check_forest(check, ksm_unstable_forest(), check_unstable_root);
	read_figures(&after);
	check_result.compared = !memcmp(&before, &after, sizeof(before));
	return check_result.compared && sums_agree(check, &after, last);
}

/*
 * What a lock holds still must be right in any attempt. Sums that do not agree
 * may have moved and come back: it is the last attempt that reports them.
 */
static int run_check(void)
{
	struct ksm_check *check = kzalloc_obj(struct ksm_check);
	unsigned int left = CHECK_ATTEMPTS;
	int done = 0;

	if (!check)
		return -ENOMEM;
	while (!done && !check->wrong && left--)
		done = attempt(check, !left);
	check_result.runs++;
	check_result.wrong = check->wrong;
	if (check->wrong > KSM_CHECK_PRINTED)
		pr_err("ksm: check: and %lu more\n", check->wrong - KSM_CHECK_PRINTED);
	WARN(check->wrong, "KSM is not in order: %lu disagreements\n", check->wrong);
	kfree(check);
	if (done < 0)
		return done;
	return check_result.wrong ? -EUCLEAN : 0;
}

static ssize_t check_write(struct file *file, const char __user *text, size_t size, loff_t *pos)
{
	int err;

	scoped_guard(mutex, &ksm_control)
		err = run_check();
	return err ?: size;
}

static int check_show(struct seq_file *file, void *unused)
{
	guard(mutex)(&ksm_control);
	seq_printf(file, "runs %lu\n", check_result.runs);
	seq_printf(file, "disagreements %lu\n", check_result.wrong);
	seq_printf(file, "sums_compared %d\n", check_result.compared);
	return 0;
}

static int check_open(struct inode *inode, struct file *file)
{
	return single_open(file, check_show, NULL);
}

static const struct file_operations check_fops = {
	.owner = THIS_MODULE,
	.open = check_open,
	.read = seq_read,
	.write = check_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static int mask_get(void *unused, u64 *mask)
{
	*mask = ksm_checksum_mask;
	return 0;
}

/* The zero page's checksum was taken at boot: zero pages stay as they are then. */
static int mask_set(void *unused, u64 mask)
{
	guard(mutex)(&ksm_control);
	ksm_registry_bury();
	if (!ksm_registry_empty() || ksm_site_nr_heirs())
		return -EBUSY;
	ksm_scan_reset();
	WRITE_ONCE(ksm_checksum_mask, mask);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(mask_fops, mask_get, mask_set, "0x%llx\n");

/**
 * ksm_check_init - make the files of the checker
 * @dir: of KSM in debugfs
 */
void __init ksm_check_init(struct dentry *dir)
{
	debugfs_create_file("check", 0600, dir, NULL, &check_fops);
	debugfs_create_file("checksum_mask", 0600, dir, NULL, &mask_fops);
	debugfs_create_bool("deny_sightings", 0600, dir, &ksm_sightings_denied);
	ksm_point_init(dir);
}
