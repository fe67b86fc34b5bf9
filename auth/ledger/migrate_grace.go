package ledger

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// graceMigration remembers since when what an account stores is not paid, and what it was told about that.
func graceMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_40_grace_ledger",
		Migrate: func(tx *gorm.DB) error {
			for _, column := range []string{"unpaid_ms", "stage", "due_ms"} {
				if err := tx.Exec(`ALTER TABLE notices ADD COLUMN ` + column + ` BIGINT NOT NULL DEFAULT 0`).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}
}
