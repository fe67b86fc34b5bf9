package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

type planRow struct {
	Name      string `gorm:"primaryKey"`
	Limits    string
	CreatedMS int64 `gorm:"column:created_ms"`
}

func (planRow) TableName() string { return "plans" }

func (r planRow) plan() (Plan, error) {
	p := Plan{Name: r.Name, Created: time.UnixMilli(r.CreatedMS).UTC()}
	if err := json.Unmarshal([]byte(r.Limits), &p.Limits); err != nil {
		p.Limits, p.Unreadable = Limits{}, true // not what was read of them so far
		return p, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return p, nil
}

func planNamed(tx *gorm.DB, name string) (row planRow, err error) {
	err = tx.Where("name = ?", name).Take(&row).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		err = ErrNoPlan
	}
	return row, err
}

func (s *Service) selectPlans(ctx context.Context) (plans []Plan, err error) {
	var rows []planRow
	if err := s.db.Read(ctx, func(tx *gorm.DB) error { return tx.Order("name").Find(&rows).Error }); err != nil {
		return nil, err
	}
	for _, row := range rows {
		plan, err := row.plan()
		if err != nil && !errors.Is(err, ErrUnreadable) {
			return nil, err
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

func (s *Service) selectPlan(ctx context.Context, name string) (Plan, error) {
	var row planRow
	err := s.db.Read(ctx, func(tx *gorm.DB) (err error) {
		row, err = planNamed(tx, name)
		return err
	})
	if err != nil {
		return Plan{}, err
	}
	return row.plan()
}

func (s *Service) savePlan(ctx context.Context, by Actor, name string, limits Limits) error {
	text, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	now := s.now()
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		if err := endPrices(tx, name, limits.Prices, now); err != nil {
			return err
		}
		err := tx.Clauses(clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"limits"})}).
			Create(&planRow{Name: name, Limits: string(text), CreatedMS: now.UnixMilli()}).Error
		if err != nil {
			return err
		}
		return record(tx, now, by, actionPlanSet, "", name, map[string]any{"limits": limits})
	})
}
