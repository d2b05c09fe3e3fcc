// SPDX-License-Identifier: GPL-2.0-only
/*
 * Heirs: sites whose own mapping is gone, and processes forked from it may still map the
 * folio. Nobody tells when these write to their pages or exit, so ksmd looks after them.
 */
#include <linux/rmap.h>

#include "check.h"

static struct {
	spinlock_t lock;		/* guards the others and ksm_stable.heirs */
	unsigned int nr;		/* nodes on the list */
	struct list_head list;		/* nodes that have heirs */
} heirs = {
	.lock = __SPIN_LOCK_UNLOCKED(heirs.lock),
	.list = LIST_HEAD_INIT(heirs.list),
};

/* A step ends when so many places were looked at; they may all be needed for an heir each. */
#define KSM_PRUNE_PLACES	4096

/* A step is worth another at once if one node in so many has lost its heirs. */
#define KSM_PRUNE_WORTH		4

/* After a round in vain so many jiffies go by, or a pass comes to its end. */
#define KSM_PRUNE_WAIT		(8 * HZ)

/* ksmd goes round the list. */
static struct {
	unsigned int left;		/* nodes of this round that were not looked at */
	unsigned int freed;		/* those of it that have lost their heirs */
	unsigned long ended;		/* when there were none left, in jiffies */
} round;				/* ksm_control */

/* A node has heirs. Returns whether it is the only one. */
static bool list_heirs(struct ksm_stable *stable)
{
	guard(spinlock)(&heirs.lock);
	if (!list_empty(&stable->heirs))
		return false;
	list_add_tail(&stable->heirs, &heirs.list);
	return !heirs.nr++;
}

/*
 * Between passes ksmd looks after heirs. If it has no passes it sleeps until there are
 * heirs: who lists the first node wakes it. Who stops the passes later lets it look.
 */
static void first_heir_wakes(void)
{
	smp_mb();	/* pairs with that of wait_event(), in scan_idle() */
	if (READ_ONCE(ksm_run) != KSM_RUN_MERGE || ksm_registry_empty())
		ksm_scan_wake();
}

/* Returns whether no node had heirs before. */
static bool bequeath(struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	bool first;

	guard(spinlock)(&root->lock);
	site->heir = true;
	stable->nr_heirs++;
	first = list_heirs(stable);
	smp_mb__before_atomic();	/* pairs with something_is_merged() */
	if (!--stable->nr_sites)
		atomic_long_dec(&ksm_stat.shared);
	return first;
}

/**
 * ksm_site_bequeath - a site becomes an heir
 * @site: owned by no record
 *
 * Context: the node's folio locked.
 */
void ksm_site_bequeath(struct ksm_site *site)
{
	if (bequeath(site))
		first_heir_wakes();
}

/**
 * ksm_site_inherit - let an heir that leads to a place become its site
 * @stable: the node
 * @vma: the VMA
 * @addr: where in it the folio is mapped
 *
 * Children of a process that is gone do not need more sites than it had.
 *
 * Context: the node's folio locked; the mmap_lock held.
 * Return: the site, or NULL when there is no such heir.
 */
struct ksm_site *ksm_site_inherit(struct ksm_stable *stable, const struct vm_area_struct *vma,
				  unsigned long addr)
{
	struct ksm_root *root = ksm_stable_root(stable);
	struct ksm_site *site;

	if (!stable->nr_heirs)
		return NULL;
	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site)) {
		if (!site->heir || !ksm_site_reaches(site, vma, addr))
			continue;
		guard(spinlock)(&root->lock);
		site->heir = false;
		stable->nr_heirs--;
		if (!stable->nr_sites++)
			atomic_long_inc(&ksm_stat.shared);
		return site;
	}
	return NULL;
}

/*
 * With the folio locked no migration is under way: who maps it, maps it now. Counts the
 * places looked at.
 */
static bool heir_needed(const struct ksm_site *site, struct folio *folio, unsigned int *looked)
{
	struct anon_vma *anon_vma = site->anon_vma;
	struct anon_vma_chain *avc;
	bool found = false;

	anon_vma_lock_read(anon_vma);
	anon_rmap_tree_foreach(avc, anon_vma, site->pgoff, site->pgoff) {
		cond_resched();
		++*looked;
		found = ksm_vma_maps(avc->vma, vma_anon_address(avc->vma, site->pgoff, 1),
				     folio_page(folio, 0));
		if (found)
			break;
	}
	anon_vma_unlock_read(anon_vma);
	return found;
}

/* The folio's lock keeps the sites still. The node is gone if none are left. */
static unsigned int prune_living(struct ksm_stable *stable, struct folio *folio,
				 unsigned int *looked)
{
	struct hlist_node *next;
	struct ksm_site *site;
	unsigned int kept = 0;

	hlist_for_each_entry_safe(site, next, &stable->sites, link) {
		if (!site->heir)
			continue;
		if (!ksm_site_has_double(site) && heir_needed(site, folio, looked))
			kept++;
		else
			ksm_site_drop(site, folio);
	}
	return kept;
}

/*
 * Without a folio there are no new heirs and nobody walks the sites, but other
 * sites may leave meanwhile. The node may go with its last heir: count first.
 */
static void prune_gone(struct ksm_stable *stable, unsigned int left)
{
	struct ksm_root *root = ksm_stable_root(stable);

	while (left--) {
		struct ksm_site *site, *heir = NULL;

		scoped_guard(spinlock, &root->lock) {
			hlist_for_each_entry(site, &stable->sites, link) {
				if (site->heir) {
					heir = site;
					break;
				}
			}
		}
		if (WARN_ON_ONCE(!heir))
			break;
		ksm_site_drop(heir, NULL);
	}
}

/* Takes a node off the list; it may go at once, or with its last site from now on. */
static bool unlist_node(struct ksm_stable *stable, unsigned int *nr_heirs)
{
	struct ksm_root *root = ksm_stable_root(stable);

	guard(spinlock)(&root->lock);
	*nr_heirs = stable->nr_heirs;
	scoped_guard(spinlock, &heirs.lock) {
		list_del_init(&stable->heirs);
		heirs.nr--;
	}
	return ksm_stable_settle(root, stable);
}

/* Returns whether the node still has heirs; if not, it may be gone. */
static bool prune_node(struct ksm_stable *stable, bool wait, unsigned int *looked)
{
	struct folio *folio = ksm_stable_lock_folio(stable, wait);
	unsigned int nr_heirs, kept = 0;

	if (IS_ERR(folio))
		return true;
	if (unlist_node(stable, &nr_heirs))
		ksm_stable_drop(stable, folio);
	else if (nr_heirs && !folio)
		prune_gone(stable, nr_heirs);
	else if (nr_heirs)
		kept = prune_living(stable, folio, looked);
	if (kept && list_heirs(stable))
		first_heir_wakes();
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
	return kept;
}

/*
 * Looks at *@nr nodes, or fewer if that makes @places; *@nr says how many were left out.
 * Returns how many of the others still have heirs.
 */
static unsigned int prune_nodes(unsigned int *nr, bool wait, unsigned int places)
{
	unsigned int kept = 0, looked = 0;

	while (*nr && looked < places) {
		struct ksm_stable *stable;

		scoped_guard(spinlock, &heirs.lock) {
			stable = list_first_entry_or_null(&heirs.list, struct ksm_stable, heirs);
			if (stable)
				list_move_tail(&stable->heirs, &heirs.list);
		}
		if (!stable)
			break;
		--*nr;
		ksm_point_sleep(KSM_POINT_PRUNE);
		kept += prune_node(stable, wait, &looked);
		cond_resched();
	}
	return kept;
}

/**
 * ksm_site_prune_heirs - free all heirs that are not needed any more
 *
 * Only this frees nodes that are on the list, so that one found there stays
 * until it was pruned.
 *
 * Context: ksm_control held, so that one at a time does this; sleeps, also for locks of
 * folios.
 * Return: how many nodes still have heirs.
 */
unsigned int ksm_site_prune_heirs(void)
{
	unsigned int nr = ksm_site_nr_heirs();

	lockdep_assert_held(&ksm_control);
	return prune_nodes(&nr, true, UINT_MAX);
}

/**
 * ksm_site_prune_step - look at the next nodes with heirs
 * @again: begin another round, though no node has lost its heirs in the last one
 *
 * Context: ksm_control held; waits for no folio.
 * Return: whether it was worth it, and the next step should come soon.
 */
bool ksm_site_prune_step(bool again)
{
	unsigned int nr = ksm_site_nr_heirs(), left, kept, freed;
	bool worth;

	again |= round.freed || time_after(jiffies, round.ended + KSM_PRUNE_WAIT);
	if (!round.left && again) {
		round.left = nr;
		round.freed = 0;
	}
	round.left = min(round.left, nr);
	nr = min(round.left, KSM_PRUNE_STEP);
	if (!nr)
		return false;
	left = nr;
	kept = prune_nodes(&left, false, KSM_PRUNE_PLACES);
	nr -= left;
	freed = nr - kept;
	worth = freed * KSM_PRUNE_WORTH >= nr;
	round.freed += freed;
	/* Heirs that take long, and stay, are not to be looked at all the time. */
	round.left = left && !worth ? 0 : round.left - nr;
	if (!round.left)
		round.ended = jiffies;
	return worth;
}

#ifdef CONFIG_KSM_DEBUG
/**
 * ksm_site_next_with_heirs - a node that has heirs, another one each time
 *
 * Context: ksm_control held, which keeps the node in being.
 * Return: the node, or NULL.
 */
struct ksm_stable *ksm_site_next_with_heirs(void)
{
	struct ksm_stable *stable;

	lockdep_assert_held(&ksm_control);
	guard(spinlock)(&heirs.lock);
	stable = list_first_entry_or_null(&heirs.list, struct ksm_stable, heirs);
	if (stable)
		list_move_tail(&stable->heirs, &heirs.list);
	return stable;
}
#endif

/**
 * ksm_site_nr_heirs - how many nodes have heirs
 *
 * Context: any; the answer may be old at once.
 * Return: their number.
 */
unsigned int ksm_site_nr_heirs(void)
{
	return READ_ONCE(heirs.nr);
}
