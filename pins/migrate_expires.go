package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// expiresMigration lets pins have an end.
func expiresMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_72_expires",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`ALTER TABLE pins ADD COLUMN expires_ms BIGINT`,
				`CREATE INDEX pins_expires ON pins (expires_ms) WHERE expires_ms IS NOT NULL`,
			})
		},
	}
}
