package retrieval

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// Migrations returns the steps to this package's tables, oldest first. Ids are ordered over all packages; a step that was
// released is never changed again.
func Migrations() []*gormigrate.Migration {
	return []*gormigrate.Migration{{
		ID: "20261128_50_retrieval",
		Migrate: func(tx *gorm.DB) error {
			for _, statement := range []string{
				`CREATE TABLE retrieval_providers (
					provider TEXT PRIMARY KEY,
					success  DOUBLE PRECISION NOT NULL,
					first_us BIGINT NOT NULL,
					streak   BIGINT NOT NULL,
					until_ms BIGINT NOT NULL,
					lies     BIGINT NOT NULL,
					seen_ms  BIGINT NOT NULL
				)`,
				`CREATE TABLE retrieval_proofs (
					root      TEXT   NOT NULL,
					provider  TEXT   NOT NULL,
					proven_ms BIGINT NOT NULL,
					failed_ms BIGINT NOT NULL,
					reason    TEXT   NOT NULL,
					PRIMARY KEY (root, provider)
				)`,
			} {
				if err := tx.Exec(statement).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}, {
		// Strangers are remembered in memory only: there is no end of them.
		ID: "20261129_70_strangers",
		Migrate: func(tx *gorm.DB) error {
			return tx.Exec(`DELETE FROM retrieval_providers WHERE provider LIKE 'stranger %'`).Error
		},
	}}
}
