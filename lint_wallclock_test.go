package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"testing"
)

// lintWallClock wants no test to compare or divide two times that it has measured:
// on a busy machine either may be anything. A deadline, a measured time against a
// constant, is allowed: it has to be long.
func lintWallClock(t *testing.T, files []*file) {
	for _, f := range files {
		if !f.test || imports(f, "testing/synctest") {
			continue
		}
		for _, p := range measuredRatios(f.ast) {
			t.Errorf("%s: two measured times are compared: on a busy machine either may be anything; count the work instead (calls, bytes, allocations)", f.at(p))
		}
	}
}

// measuredRatios finds comparisons and quotients of which both sides were measured
// with a clock.
func measuredRatios(f *ast.File) []token.Pos {
	measured := measuredNames(f)
	var out []token.Pos
	ast.Inspect(f, func(n ast.Node) bool {
		b, ok := n.(*ast.BinaryExpr)
		if !ok {
			return true
		}
		switch b.Op {
		case token.LSS, token.GTR, token.LEQ, token.GEQ, token.QUO:
			if isMeasured(b.X, measured) && isMeasured(b.Y, measured) {
				out = append(out, b.Pos())
			}
		}
		return true
	})
	return out
}

// measuredNames finds what measured times are called: variables, fields, and
// functions that return one. It is done when a round over the file finds no more.
func measuredNames(f *ast.File) map[string]bool {
	names := map[string]bool{}
	for {
		before := len(names)
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.AssignStmt:
				for i, to := range x.Lhs {
					if len(x.Rhs) == len(x.Lhs) {
						measure(names, to, x.Rhs[i])
					}
				}
			case *ast.ValueSpec:
				for i, to := range x.Names {
					if i < len(x.Values) {
						measure(names, to, x.Values[i])
					}
				}
			case *ast.KeyValueExpr:
				measure(names, x.Key, x.Value)
			case *ast.FuncDecl:
				if x.Body != nil && returnsMeasured(x.Type, x.Body, names) {
					names[x.Name.Name] = true
				}
			}
			return true
		})
		if len(names) == before {
			return names
		}
	}
}

func measure(names map[string]bool, to, from ast.Expr) {
	fn, isFunc := from.(*ast.FuncLit)
	if !isFunc && !isMeasured(from, names) || isFunc && !returnsMeasured(fn.Type, fn.Body, names) {
		return
	}
	switch x := to.(type) {
	case *ast.Ident:
		names[x.Name] = x.Name != "_"
	case *ast.SelectorExpr:
		names[x.Sel.Name] = true
	case *ast.IndexExpr:
		measure(names, x.X, from)
	}
}

// returnsMeasured reports whether a function returns a time that it has measured,
// as one of its own statements; what a function in it returns is not its own.
func returnsMeasured(typ *ast.FuncType, body *ast.BlockStmt, names map[string]bool) (found bool) {
	if typ.Results == nil {
		return false
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ReturnStmt:
			found = found || slices.ContainsFunc(x.Results, func(e ast.Expr) bool { return isMeasured(e, names) })
		}
		return true
	})
	return found
}

// isMeasured reports whether an expression is a measured time, also one times or
// plus something. A comparison with one is not: that is a truth, no time.
func isMeasured(e ast.Expr, names map[string]bool) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return names[x.Name]
	case *ast.ParenExpr:
		return isMeasured(x.X, names)
	case *ast.IndexExpr:
		return isMeasured(x.X, names)
	case *ast.BinaryExpr:
		switch x.Op {
		case token.ADD, token.SUB, token.MUL, token.QUO:
			return isMeasured(x.X, names) || isMeasured(x.Y, names)
		}
	case *ast.SelectorExpr:
		return names[x.Sel.Name]
	case *ast.CallExpr:
		switch fn := x.Fun.(type) {
		case *ast.Ident: // a conversion, float64(took), or a function that measures
			return names[fn.Name] || len(x.Args) == 1 && (fn.Name == "float64" || fn.Name == "int64" || fn.Name == "int") && isMeasured(x.Args[0], names)
		case *ast.SelectorExpr:
			if p, ok := fn.X.(*ast.Ident); ok && p.Name == "time" && p.Obj == nil {
				return fn.Sel.Name == "Since" || fn.Sel.Name == "Duration" && len(x.Args) == 1 && isMeasured(x.Args[0], names)
			}
			switch fn.Sel.Name {
			case "Elapsed", "NsPerOp":
				return true
			case "Seconds", "Milliseconds", "Microseconds", "Nanoseconds", "Minutes":
				return isMeasured(fn.X, names)
			}
			return names[fn.Sel.Name]
		}
	}
	return false
}

func TestLintFindsMeasuredRatios(t *testing.T) {
	for source, want := range map[string]int{
		`began := time.Now(); f(); one := time.Since(began); g(); two := time.Since(began) - one; if two > 3*one { t.Error() }`:       1,
		`took := func() time.Duration { b := time.Now(); f(); return time.Since(b) }; if took() > 2*took() { t.Error() }`:             1,
		`took[0] = time.Since(b); took[1] = time.Since(b); if float64(took[1])/float64(took[0]) > 1.5 { t.Error() }`:                  1,
		`l.small, l.big = time.Since(a), time.Since(b); if l.big.Seconds() >= 2*l.small.Seconds() { t.Error() }`:                      1,
		`if a, b := testing.Benchmark(f), testing.Benchmark(g); a.NsPerOp() < b.NsPerOp() { t.Error() }`:                              1,
		`if took := time.Since(began); took > 2*time.Second { t.Error(took) }`:                                                        0,
		`for began := time.Now(); rounds < 10 || time.Since(began) < limit; rounds++ { late := time.Since(began) > limit; _ = late }`: 0,
		`ok := time.Since(began) < limit; took := time.Since(began); if n := 3; ok && took < time.Duration(n)*time.Second { f() }`:    0,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", "package x\nfunc TestX(t *testing.T) {\n"+source+"\n}", 0)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		if got := len(measuredRatios(f)); got != want {
			t.Errorf("%s: %d found, want %d", source, got, want)
		}
	}
}
