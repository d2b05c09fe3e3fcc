/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The checker: whether what is written down agrees with what is.
 */
#ifndef _MM_KSM_CHECK_H
#define _MM_KSM_CHECK_H

#include "ksm.h"

/* Disagreements that are printed one by one. */
#define KSM_CHECK_PRINTED	20

/**
 * struct ksm_census - what was counted, to be compared with what is kept count of
 * @records: page records by state
 * @candidates: nodes of the unstable forest
 * @mms: registered mms
 * @track_bytes: their page records
 * @stables: stable nodes, linked or not
 * @shared: those with sites other than heirs
 * @sites: such sites
 * @heirs: heirs
 * @chains: keys that several stable nodes have
 * @dups: those nodes
 */
struct ksm_census {
	long records[KSM_NR_STATES];
	long candidates;
	long mms;
	long track_bytes;
	long stables;
	long shared;
	long sites;
	long heirs;
	long chains;
	long dups;
};

/**
 * struct ksm_check - one run of the checker
 * @census: what was counted
 * @wrong: disagreements
 * @kmm: whose page tables are walked
 * @vma: the part of them
 * @zero_pages: mapped by them on our behalf
 */
struct ksm_check {
	struct ksm_census census;
	unsigned long wrong;
	struct ksm_mm *kmm;
	struct vm_area_struct *vma;
	long zero_pages;
};

__printf(2, 3) void ksm_disagree(struct ksm_check *check, const char *format, ...);

void ksm_check_node(struct ksm_check *check, struct ksm_stable *stable);
void ksm_check_folio(struct ksm_check *check, struct ksm_stable *stable, struct folio *folio);
void ksm_check_mm(struct ksm_check *check, struct ksm_mm *kmm);
bool ksm_check_anyone_leaves(void);

/* ---- what other files show to the checker ---- */

struct ksm_mm **ksm_registry_list(unsigned long *nr);
struct ksm_stable *ksm_site_next_with_heirs(void);
const struct ksm_forest *ksm_stable_forest(void);
const struct ksm_forest *ksm_unstable_forest(void);
unsigned int ksm_block_bytes(unsigned int room);
long ksm_sight_bytes(void);

#ifdef CONFIG_KSM_DEBUG
/* Changes with ksm_control held and nobody registered. */
extern u64 ksm_checksum_mask;
/* No key counts as seen before: equal pages settle one by one, and do not meet. */
extern bool ksm_sightings_denied;

static inline bool ksm_deny_sighting(void)
{
	return READ_ONCE(ksm_sightings_denied);
}

void ksm_check_init(struct dentry *dir);
void ksm_check_leave(struct mm_struct *mm);
#else
static inline bool ksm_deny_sighting(void)
{
	return false;
}

static inline void ksm_check_init(struct dentry *dir)
{
}

static inline void ksm_check_leave(struct mm_struct *mm)
{
}
#endif

#endif /* _MM_KSM_CHECK_H */
