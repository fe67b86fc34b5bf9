package ledger

import (
	"strings"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// deferredMigration keeps what is counted and cannot be priced yet.
func deferredMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_70_deferred_charges",
		Migrate: func(tx *gorm.DB) error {
			text := "TEXT"
			if tx.Name() == "postgres" {
				text = `TEXT COLLATE "C"`
			}
			for _, statement := range []string{
				`CREATE TABLE deferred_charges (
					idem_key CTEXT  PRIMARY KEY,
					account  BIGINT NOT NULL REFERENCES balances (account),
					kind     CTEXT  NOT NULL,
					day      CTEXT  NOT NULL,
					ref      CTEXT  NOT NULL,
					qty      TEXT   NOT NULL,
					at_ms    BIGINT NOT NULL
				)`,
				`CREATE INDEX deferred_charges_account ON deferred_charges (account, kind, day, ref)`,
			} {
				if err := tx.Exec(strings.ReplaceAll(statement, "CTEXT", text)).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}
}
