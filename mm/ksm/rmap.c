// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the rest of mm asks of merged folios: reverse-mapping walks for reclaim
 * and migration, the move of a node to another folio, copies on swap-in, and
 * the processes to tell of a memory failure.
 */
#include <linux/memcontrol.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>

#include "ksm.h"

/* Sites looked at on swap-in before a copy is the cheaper answer. */
#define KSM_SWAPIN_SITES	256

static bool lock_site(struct ksm_site *site, struct rmap_walk_control *rwc)
{
	if (!ksm_point_fails(KSM_POINT_LOCK_ANON_VMA) && anon_vma_trylock_read(site->anon_vma))
		return true;
	if (rwc->try_lock) {
		rwc->contended = true;
		return false;
	}
	anon_vma_lock_read(site->anon_vma);
	return true;
}

/* Returns false when the walk is to end. */
static bool walk_site(struct folio *folio, struct ksm_site *site, struct rmap_walk_control *rwc)
{
	struct anon_vma_chain *avc;
	bool more = true;

	if (!lock_site(site, rwc))
		return false;
	anon_rmap_tree_foreach(avc, site->anon_vma, site->pgoff, site->pgoff) {
		struct vm_area_struct *vma = avc->vma;
		unsigned long addr = vma_anon_address(vma, site->pgoff, 1);

		cond_resched();
		if (addr == -EFAULT || (rwc->invalid_vma && rwc->invalid_vma(vma, rwc->arg)))
			continue;
		more = rwc->rmap_one(folio, vma, addr, rwc->arg) &&
		       !(rwc->done && rwc->done(folio));
		if (!more)
			break;
	}
	anon_vma_unlock_read(site->anon_vma);
	return more;
}

/**
 * rmap_walk_ksm - visit all mappings of a merged folio
 * @folio: the folio
 * @rwc: what to do; rmap_one() checks whether the place maps @folio
 *
 * Each site leads to its own place and to those forked from it. None is visited twice:
 * folio_referenced() counts visits down from the number of mappings.
 *
 * Context: @folio locked, which keeps the sites still; may sleep.
 */
void rmap_walk_ksm(struct folio *folio, struct rmap_walk_control *rwc)
{
	struct ksm_stable *stable = ksm_folio_stable(folio);
	struct ksm_site *site;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_ksm(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	if (!stable)
		return;
	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site)) {
		if (!walk_site(folio, site, rwc))
			return;
	}
}

#ifdef CONFIG_MIGRATION
/**
 * folio_migrate_ksm - a folio's contents and mappings have moved
 * @newfolio: where to; has the old one's mapping word already
 * @folio: where from
 *
 * Context: both folios locked.
 */
void folio_migrate_ksm(struct folio *newfolio, struct folio *folio)
{
	struct ksm_stable *stable;

	if (!folio_test_ksm(folio))
		return;
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(newfolio), newfolio);
	VM_WARN_ON_ONCE_FOLIO(newfolio->mapping != folio->mapping, newfolio);

	stable = ksm_folio_stable(newfolio);
	if (stable)
		ksm_stable_move(stable, newfolio, folio);
}
#endif

/* May this place map the merged folio, so that reverse mapping finds it? */
static bool may_map_merged(struct folio *folio, struct vm_area_struct *vma, unsigned long addr)
{
	struct ksm_stable *stable = ksm_folio_stable(folio);
	unsigned int seen = 0;
	struct ksm_site *site;

	if (!stable || !ksm_vma_mergeable(vma) || READ_ONCE(ksm_run) == KSM_RUN_UNMERGE)
		return false;
	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site)) {
		if (ksm_site_reaches(site, vma, addr))
			return true;
		if (++seen >= KSM_SWAPIN_SITES)
			break;
	}
	return false;
}

/* Whether walks from a folio's anon_vma, which may be gone, find a VMA. */
static bool anon_vma_reaches(const struct anon_vma *anon_vma, const struct vm_area_struct *vma)
{
	const struct anon_vma_chain *avc;

	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma) {
		if (avc->anon_vma == anon_vma)
			return true;
	}
	return false;
}

/*
 * A swap cache folio that belongs to another place than the one that faults. Where
 * that was is no relative of this one perhaps, and may have exited: its anon_vma is
 * not looked at.
 */
static bool needs_copy(struct folio *folio, struct vm_area_struct *vma, unsigned long addr)
{
	struct anon_vma *anon_vma;

	if (folio_test_large(folio))
		return false;
	if (folio_test_ksm(folio))
		return !may_map_merged(folio, vma, addr);
	anon_vma = folio_anon_vma(folio);
	if (!anon_vma)
		return false;
	return folio->index != linear_anon_page_index(vma, addr) ||
	       !anon_vma_reaches(anon_vma, vma);
}

/**
 * ksm_might_need_to_copy - swap-in finds a folio that was merged once
 * @folio: in the swap cache, locked
 * @vma: where it is to be mapped
 * @addr: the page's address there
 *
 * When a merged folio goes to swap and comes back, it belongs to the first
 * place that faults; the others cannot map it, for their anon_vmas do not lead
 * to it or not at the same index. They get copies, which may merge again.
 *
 * Called for every page that comes back from swap, merged or not.
 *
 * Context: @vma's fault locks held; sleeps.
 * Return: @folio; a copy, locked and charged; NULL without memory;
 * ERR_PTR(-EHWPOISON) when @folio cannot be read.
 */
struct folio *ksm_might_need_to_copy(struct folio *folio, struct vm_area_struct *vma,
				     unsigned long addr)
{
	struct folio *copy;

	if (!needs_copy(folio, vma, addr)) {
		if (vma->vm_flags & VM_MERGEABLE)
			ksm_frame_note(folio);
		return folio;
	}
	if (folio_test_hwpoison(folio))
		return ERR_PTR(-EHWPOISON);
	if (!folio_test_uptodate(folio))
		return folio;	/* the caller reports the failed read */

	ksm_point_sleep(KSM_POINT_SWAPIN);
	copy = vma_alloc_folio(GFP_HIGHUSER_MOVABLE, 0, vma, addr);
	if (copy && mem_cgroup_charge(copy, vma->vm_mm, GFP_KERNEL)) {
		folio_put(copy);
		copy = NULL;
	}
	if (!copy)
		return NULL;
	if (copy_mc_user_highpage(folio_page(copy, 0), folio_page(folio, 0), addr, vma)) {
		folio_put(copy);
		return ERR_PTR(-EHWPOISON);
	}
	/* The swap slot will not hold these bytes for the copy. */
	folio_set_dirty(copy);
	__folio_mark_uptodate(copy);
	__folio_set_locked(copy);
#ifdef CONFIG_SWAP
	count_vm_event(KSM_SWPIN_COPY);
#endif
	ksm_frame_note(copy);
	return copy;
}

#ifdef CONFIG_MEMORY_FAILURE
static void collect_task(struct ksm_site *site, struct task_struct *task, const struct page *page,
			 struct list_head *to_kill)
{
	struct anon_vma_chain *avc;

	anon_rmap_tree_foreach(avc, site->anon_vma, site->pgoff, site->pgoff) {
		struct vm_area_struct *vma = avc->vma;
		unsigned long addr;

		if (vma->vm_mm != task->mm)
			continue;
		addr = vma_anon_address(vma, site->pgoff, 1);
		if (ksm_vma_maps(vma, addr, page))
			add_to_kill_ksm(task, page, vma, to_kill, addr);
	}
}

/**
 * collect_procs_ksm - find the processes that map a failed page
 * @folio: merged
 * @page: the page of it that failed
 * @to_kill: list to add them to, each once
 * @force_early: also those that did not ask to be told early
 *
 * Context: @folio locked; may sleep.
 */
void collect_procs_ksm(const struct folio *folio, const struct page *page,
		       struct list_head *to_kill, int force_early)
{
	struct ksm_stable *stable = ksm_folio_stable(folio);
	struct ksm_site *site;

	if (!stable)
		return;
	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site)) {
		struct task_struct *p;

		anon_vma_lock_read(site->anon_vma);
		rcu_read_lock();
		for_each_process(p) {
			struct task_struct *task = task_early_kill(p, force_early);

			if (task)
				collect_task(site, task, page, to_kill);
		}
		rcu_read_unlock();
		anon_vma_unlock_read(site->anon_vma);
	}
}
#endif
