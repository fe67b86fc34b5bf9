package ledger

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// holdsMigration remembers what holds are for, so that they share the allowances.
func holdsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_80_held_stock",
		Migrate: func(tx *gorm.DB) error {
			for _, column := range []string{"hot", "cold"} {
				if err := tx.Exec(`ALTER TABLE holds ADD COLUMN ` + column + ` BIGINT NOT NULL DEFAULT 0`).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}
}
