package filter

import (
	"fmt"
	"math"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// MaxCost bounds the cost of an expression in CEL's units, of which a comparison is one and a ten-character scan is one. It
// bounds the estimate when an expression is compiled, for the sizes below, and what one evaluation may use when it runs.
const MaxCost = 1_000_000

// sizes are the assumptions of an estimate: the bytes of a string and the entries of a list or map.
type sizes struct{ text, entries uint64 }

// ordinarySizes are what an expression is judged by when it is compiled: a loop in a loop passes, a loop in a loop in a loop does not.
func ordinarySizes() sizes { return sizes{text: 256, entries: 100} }

// worstSizes are what the largest message can hold.
func worstSizes() sizes { return sizes{text: 1 << 20, entries: 1 << 20} }

// bound refuses an expression that costs too much on ordinary messages. One that stays cheap on the largest message needs no
// accounting at run time, which would slow each evaluation; the others are stopped at MaxCost.
func bound(env *cel.Env, checked *cel.Ast) ([]cel.ProgramOption, error) {
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	estimate, err := env.EstimateCost(checked, ordinarySizes())
	if err != nil {
		return nil, &Error{Reason: TooCostly, Detail: oneLine(err.Error())}
	}
	if estimate.Max > MaxCost {
		return nil, &Error{Reason: TooCostly, Line: 1, Column: 1,
			Detail: fmt.Sprintf("estimated cost %s; at most %d is allowed", amount(estimate.Max), MaxCost)}
	}
	worst, err := env.EstimateCost(checked, worstSizes())
	if err != nil || worst.Max > MaxCost {
		options = append(options, cel.CostLimit(MaxCost))
	}
	return options, nil
}

func amount(n uint64) string {
	if n == math.MaxUint64 {
		return "without bound"
	}
	return fmt.Sprint(n)
}

// EstimateSize implements cost.Estimator.
func (s sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if node.ComputedSize() != nil {
		return nil
	}
	switch node.Type().Kind() {
	case types.StringKind, types.BytesKind:
		return &cost.SizeEstimate{Max: s.text}
	case types.ListKind, types.MapKind, types.StructKind, types.DynKind, types.AnyKind:
		return &cost.SizeEstimate{Max: s.entries}
	}
	return nil
}

// EstimateCallCost implements cost.Estimator: CEL's own figures are good.
func (s sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
