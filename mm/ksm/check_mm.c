// SPDX-License-Identifier: GPL-2.0-only
/*
 * The checker's look at one registered mm: its page records, the merged folios
 * that they lead to, and its page tables.
 */
#include <linux/ksm.h>
#include <linux/leafops.h>
#include <linux/pagewalk.h>
#include <linux/rmap.h>

#include "check.h"

/* How often mappings are counted until they can be compared. */
#define COUNT_ATTEMPTS		4
/* Merged pages taken out of a page table at a time. */
#define PLACES			32

/* ---- merged folios ---- */

/**
 * ksm_check_node - check what a stable node keeps count of
 * @check: the run
 * @stable: the node
 *
 * Context: the node's root locked.
 */
void ksm_check_node(struct ksm_check *check, struct ksm_stable *stable)
{
	unsigned int nr_sites = 0, nr_heirs = 0, nr_distinct = 0;
	struct ksm_site *site;

	for (site = ksm_site_first(stable); site; site = ksm_site_next_distinct(site))
		nr_distinct++;

	hlist_for_each_entry(site, &stable->sites, link) {
		if (site->stable != stable)
			ksm_disagree(check, "pfn %lx: a site belongs to another node", stable->pfn);
		if (site->heir)
			nr_heirs++;
		else
			nr_sites++;
	}
	if (nr_sites != stable->nr_sites || nr_heirs != stable->nr_heirs)
		ksm_disagree(check, "pfn %lx: %u sites and %u heirs, should be %u and %u",
			     stable->pfn, nr_sites, nr_heirs, stable->nr_sites, stable->nr_heirs);
	if (nr_distinct != stable->nr_distinct)
		ksm_disagree(check, "pfn %lx: %u sites to visit, should be %u", stable->pfn,
			     nr_distinct, stable->nr_distinct);
	if (stable->full != ksm_stable_full(stable))
		ksm_disagree(check, "pfn %lx: full is %d", stable->pfn, stable->full);
	if (nr_heirs && list_empty(&stable->heirs))
		ksm_disagree(check, "pfn %lx: heirs, but not on the list of those", stable->pfn);
}

/* How often a walk has met mappings of a folio; reclaim rests on one visit to each. */
struct mappings {
	struct ksm_check *check;
	unsigned int nr;
	int mapcount;
};

static bool count_mapping(struct folio *folio, struct vm_area_struct *vma, unsigned long addr,
			  void *arg)
{
	DEFINE_FOLIO_VMA_WALK(pvmw, folio, vma, addr, PVMW_SYNC);
	struct mappings *mappings = arg;

	while (page_vma_mapped_walk(&pvmw)) {
		if (!pvmw.pte) {
			ksm_disagree(mappings->check, "pfn %lx: mapped huge", folio_pfn(folio));
			continue;
		}
		if (pte_present(ptep_get(pvmw.pte)) && pte_write(ptep_get(pvmw.pte)))
			ksm_disagree(mappings->check, "pfn %lx: writable at %lx", folio_pfn(folio),
				     addr);
		mappings->nr++;
	}
	return true;
}

/* Returns whether the number of mappings stood still. */
static bool count_mappings(struct mappings *mappings, struct folio *folio)
{
	struct rmap_walk_control rwc = { .rmap_one = count_mapping, .arg = mappings };
	int before = folio_mapcount(folio);

	mappings->nr = 0;
	rmap_walk_ksm(folio, &rwc);
	mappings->mapcount = folio_mapcount(folio);
	return before == mappings->mapcount;
}

/*
 * Fork and unmapping do not ask for the folio's lock: when the number of mappings
 * has moved it is counted again. An exit drops its sites first and unmaps then, so
 * that a place may be mapped that nobody looks for any more.
 */
static void check_mappings(struct ksm_check *check, struct folio *folio)
{
	struct mappings mappings = { .check = check };
	unsigned int left = COUNT_ATTEMPTS;
	bool leaving, counted;

	do {
		leaving = ksm_check_anyone_leaves();
		counted = count_mappings(&mappings, folio);
		if (counted && mappings.nr == mappings.mapcount)
			return;
	} while (--left);
	if (counted && !leaving)
		ksm_disagree(check, "pfn %lx: mapped %d times, reverse mapping visits %u",
			     folio_pfn(folio), mappings.mapcount, mappings.nr);
}

/**
 * ksm_check_folio - check a merged folio: contents, and who maps it
 * @check: the run
 * @stable: the node, which nothing can free now
 * @folio: its folio
 *
 * Context: @folio locked; sleeps.
 */
void ksm_check_folio(struct ksm_check *check, struct ksm_stable *stable, struct folio *folio)
{
	struct page *page = folio_page(folio, 0);

	if (folio_test_large(folio) || PageAnonExclusive(page))
		ksm_disagree(check, "pfn %lx: large, or exclusive to one mapping",
			     folio_pfn(folio));
	if (PageHWPoison(page) || !folio_test_uptodate(folio))
		return;
	if (ksm_page_key(page, NULL) != stable->node.key)
		ksm_disagree(check, "pfn %lx: contents have changed, key %llx is not %llx",
			     folio_pfn(folio), ksm_page_key(page, NULL), stable->node.key);
	check_mappings(check, folio);
}

/* ---- page records ---- */

static bool is_linked(struct ksm_root *root, const struct ksm_node *which)
{
	struct ksm_node *node;

	guard(spinlock)(&root->lock);
	for (node = ksm_root_find(root, which->key); node; node = ksm_node_next_equal(node))
		if (node == which)
			return true;
	return false;
}

static void check_candidate(struct ksm_check *check, unsigned long addr,
			    struct ksm_candidate *candidate)
{
	struct ksm_root *root = ksm_forest_root(ksm_unstable_forest(), candidate->node.key);

	if (candidate->kmm != check->kmm || candidate->addr != addr)
		ksm_disagree(check, "candidate at %lx: another page's", addr);
	if (!is_linked(root, &candidate->node))
		ksm_disagree(check, "candidate at %lx: not in the forest", addr);
}

/* Returns whether it is the first of the node's sites that are no heirs. */
static bool check_link(struct ksm_check *check, unsigned long addr, const struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct ksm_root *root = ksm_stable_root(stable);
	const struct ksm_site *other, *first = NULL;
	bool linked = false;

	guard(spinlock)(&root->lock);
	hlist_for_each_entry(other, &stable->sites, link) {
		linked |= other == site;
		if (!first && !other->heir)
			first = other;
	}
	if (!linked || site->heir)
		ksm_disagree(check, "site at %lx: %s", addr, linked ? "an heir" : "not its node's");
	if (first == site)
		ksm_check_node(check, stable);
	return first == site;
}

/* The record's lock keeps the site, and that the node. */
static void check_site(struct ksm_check *check, unsigned long addr, struct ksm_site *site)
{
	struct ksm_stable *stable = site->stable;
	struct folio *folio = ksm_stable_lock_folio(stable, true);

	check->census.sites++;
	if (check_link(check, addr, site)) {
		check->census.shared++;
		check->census.stables++;
		if (folio)
			ksm_check_folio(check, stable, folio);
	}
	if (folio) {
		folio_unlock(folio);
		folio_put(folio);
	}
}

static void check_record(struct ksm_check *check, unsigned long addr, struct ksm_record rec)
{
	union ksm_word word = ksm_record_word(rec);
	enum ksm_state state = ksm_record_state(rec);

	if (state >= KSM_NR_STATES) {
		ksm_disagree(check, "record at %lx: state %d", addr, state);
		return;
	}
	check->census.records[state]++;
	if (state == KSM_CANDIDATE)
		check_candidate(check, addr, word.candidate);
	if (state == KSM_MERGED)
		check_site(check, addr, word.site);
}

static void check_block(struct ksm_check *check, unsigned long base, struct ksm_block *block)
{
	unsigned int nr = hweight64(block->map), used = 0, nth;
	struct ksm_record rec;

	check->census.track_bytes += ksm_block_bytes(block->room);
	if (nr > block->room || (block->room == KSM_BLOCK_PAGES && nr != KSM_BLOCK_PAGES)) {
		ksm_disagree(check, "block at %lx: %u records in room for %u", base, nr,
			     block->room);
		return;
	}
	for (nth = 0; nth < KSM_BLOCK_PAGES; nth++) {
		unsigned long addr = base + nth * PAGE_SIZE;

		if (!ksm_block_find(block, addr, &rec) || ksm_record_state(rec) == KSM_UNSEEN)
			continue;
		check_record(check, addr, rec);
		used++;
	}
	if (used != block->used)
		ksm_disagree(check, "block at %lx: %u records in use, should be %u", base, used,
			     block->used);
}

static void check_track(struct ksm_check *check)
{
	struct ksm_track *track = &check->kmm->track;
	struct ksm_census before = check->census;
	unsigned long index, nr_blocks = 0;
	struct ksm_block *block;
	enum ksm_state state;

	xa_for_each(&track->blocks, index, block) {
		check_block(check, index * KSM_BLOCK_SIZE, block);
		nr_blocks++;
		cond_resched();
	}
	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++) {
		unsigned long nr = check->census.records[state] - before.records[state];

		if (nr != track->nr[state])
			ksm_disagree(check, "an mm has %lu records of state %d, should be %lu", nr,
				     state, track->nr[state]);
	}
	if (nr_blocks != track->nr_blocks ||
	    check->census.track_bytes - before.track_bytes != track->bytes)
		ksm_disagree(check, "an mm has %lu blocks, should be %lu of %lu bytes", nr_blocks,
			     track->nr_blocks, track->bytes);
}

/* ---- page tables ---- */

/* A merged folio that a page table maps, with a reference. */
struct place {
	unsigned long addr;
	struct folio *folio;
};

/* Takes merged folios out of a page table; returns where it stopped. */
static unsigned long find_places(struct ksm_check *check, pmd_t *pmd, unsigned long addr,
				 unsigned long end, struct place *places, unsigned int *nr)
{
	struct vm_area_struct *vma = check->vma;
	pte_t *start, *ptep;
	spinlock_t *ptl;

	start = pte_offset_map_lock(vma->vm_mm, pmd, addr, &ptl);
	if (!start)
		return end;
	for (ptep = start; addr < end && *nr < PLACES; addr += PAGE_SIZE, ptep++) {
		pte_t pte = ptep_get(ptep);
		struct page *page;

		if (!pte_present(pte))
			continue;
		check->zero_pages += is_ksm_zero_pte(pte);
		page = vm_normal_page(vma, addr, pte);
		if (!page || !folio_test_ksm(page_folio(page)))
			continue;
		if (pte_write(pte))
			ksm_disagree(check, "pfn %lx: writable at %lx", page_to_pfn(page), addr);
		folio_get(page_folio(page));
		places[(*nr)++] = (struct place){ .addr = addr, .folio = page_folio(page) };
	}
	pte_unmap_unlock(start, ptl);
	return addr;
}

static bool is_reached(const struct ksm_stable *stable, const struct vm_area_struct *vma,
		       unsigned long addr)
{
	const struct ksm_site *site;

	hlist_for_each_entry(site, &stable->sites, link)
		if (ksm_site_reaches(site, vma, addr))
			return true;
	return false;
}

static bool is_mapped_at(struct folio *folio, struct vm_area_struct *vma, unsigned long addr)
{
	struct page *page = ksm_get_page(vma, addr);
	bool same;

	if (!page)
		return false;
	same = page_folio(page) == folio;
	put_page(page);
	return same;
}

/*
 * The folio's lock keeps its node and sites, and keeps reclaim and migration
 * out; the mmap_lock keeps the VMA. A fault may replace the page.
 */
static void check_place(struct ksm_check *check, unsigned long addr, struct folio *folio)
{
	struct ksm_stable *stable;

	folio_lock(folio);
	stable = folio_test_ksm(folio) ? ksm_folio_stable(folio) : NULL;
	if ((!stable || !is_reached(stable, check->vma, addr)) &&
	    is_mapped_at(folio, check->vma, addr))
		ksm_disagree(check, "pfn %lx: no site leads to %lx", folio_pfn(folio), addr);
	folio_unlock(folio);
	folio_put(folio);
}

static int check_pmd(pmd_t *pmd, unsigned long addr, unsigned long end, struct mm_walk *walk)
{
	struct ksm_check *check = walk->private;
	spinlock_t *ptl = pmd_trans_huge_lock(pmd, walk->vma);
	struct place places[PLACES];
	unsigned int i, nr;

	/* A merged folio is small: nothing to find in a huge mapping. */
	if (ptl) {
		spin_unlock(ptl);
		return 0;
	}
	check->vma = walk->vma;
	while (addr < end) {
		nr = 0;
		addr = find_places(check, pmd, addr, end, places, &nr);
		for (i = 0; i < nr; i++)
			check_place(check, places[i].addr, places[i].folio);
		cond_resched();
	}
	return 0;
}

/* Merged pages are anonymous, wherever they may have got to. */
static int has_anon(unsigned long addr, unsigned long end, struct mm_walk *walk)
{
	return !walk->vma->anon_vma || is_vm_hugetlb_page(walk->vma);
}

static const struct mm_walk_ops check_ops = {
	.test_walk = has_anon,
	.pmd_entry = check_pmd,
	.walk_lock = PGWALK_RDLOCK,
};

/*
 * Zero pages come and go by faults: if their number has moved they are counted again.
 * Returns false if they could not be counted, or if there are not as many as there
 * should be, which is a disagreement if nobody @unmaps.
 */
static bool check_page_tables(struct ksm_check *check, bool unmaps)
{
	struct mm_struct *mm = check->kmm->slot.mm;
	unsigned int left = COUNT_ATTEMPTS;
	long before, after;

	do {
		check->zero_pages = 0;
		before = mm_ksm_zero_pages(mm);
		walk_page_range(mm, 0, mm->task_size, &check_ops, check);
		after = mm_ksm_zero_pages(mm);
		if (before == after && check->zero_pages == after)
			return true;
	} while (--left);
	if (before == after && !unmaps)
		ksm_disagree(check, "an mm maps %ld zero pages, should be %ld", check->zero_pages,
			     after);
	return false;
}

/**
 * ksm_check_mm - check a registered mm, and the merged folios it has sites of
 * @check: the run; counts the mm's records, and folios by their first site
 * @kmm: the mm, with a reference
 *
 * Context: ksm_control held; sleeps.
 */
void ksm_check_mm(struct ksm_check *check, struct ksm_mm *kmm)
{
	struct mm_struct *mm = kmm->slot.mm;
	bool agrees = true, gone;

	check->kmm = kmm;
	/* Exit holds the mmap_lock for long; who departed has records, but no page tables. */
	gone = READ_ONCE(kmm->gone);
	if (!gone)
		mmap_read_lock(mm);
	mutex_lock(&kmm->lock);
	check_track(check);
	/* Unmerging may have forgotten an mm that is about to exit. */
	if (!kmm->gone && atomic_read(&mm->mm_users))
		agrees = check_page_tables(check, true);
	ksm_mm_unlock(kmm);
	if (!gone)
		mmap_read_unlock(mm);
	if (agrees)
		return;
	/* munmap() zaps what no VMA stands for any more with the lock for reading. */
	mmap_write_lock(mm);
	if (ksm_mm_lock(kmm)) {
		if (atomic_read(&mm->mm_users))
			check_page_tables(check, false);
		ksm_mm_unlock(kmm);
	}
	mmap_write_unlock(mm);
}
