package pins

import (
	"maps"
	"slices"

	"gorm.io/gorm"
)

// saveRefusals keeps what each account is told for as long as the root is given up for it.
func saveRefusals(tx *gorm.DB, before, after Root) error {
	if before.short() && (after.Hot != before.Hot || after.Reason != before.Reason) {
		if err := tx.Exec(`DELETE FROM refusals WHERE root_id = ?`, after.id).Error; err != nil {
			return err
		}
	}
	if after.refusals == nil {
		return nil
	}
	var rows rowsOf
	for _, account := range slices.Sorted(maps.Keys(*after.refusals)) {
		rows = append(rows, []any{after.id, account, (*after.refusals)[account]})
	}
	return rows.insert(tx, `INSERT INTO refusals (root_id, account, reason) VALUES `, ``)
}

// addRefusals has pins of an account tell its own reason where that of their root may be the one of another. Nothing is
// asked for a page without such pins.
func addRefusals(tx *gorm.DB, account Account, list []Pin) error {
	var roots []string
	for i := range list {
		if list[i].refused() {
			roots = append(roots, list[i].Root.String())
		}
	}
	if len(roots) == 0 {
		return nil
	}
	own := map[string]string{}
	err := query(tx, func(r row) error {
		var root, reason string
		err := r.Scan(&root, &reason)
		own[root] = reason
		return err
	}, `SELECT r.cid, f.reason FROM roots r JOIN refusals f ON f.root_id = r.id WHERE r.cid IN ? AND f.account = ?`, roots, account)
	if err != nil {
		return err
	}
	for i := range list {
		if reason, ok := own[list[i].Root.String()]; ok && list[i].refused() {
			list[i].DAG.Reason = reason
		}
	}
	return nil
}
