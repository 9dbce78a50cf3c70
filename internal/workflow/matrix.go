package workflow

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/penstock-ci/penstock/internal/expr"
)

// maxCells is how many jobs a matrix may make.
const maxCells = 256

const sayTooManyCells = "The strategy configuration generated more than 256 matrix jobs"

// Cell is one combination of a matrix.
type Cell struct {
	Values expr.Value // the `matrix` context
	own    int        // how many of the pairs name the job; the rest was added by include
}

// JobName is the name of the cell's job: `test (3.10, unit)`, as GitHub's JobNameBuilder makes it of a display name or
// ID. What include added to a combination is not part of it.
func (c Cell) JobName(displayNameOrID string) string {
	return jobName(displayNameOrID, c.Values.Pairs()[:c.own])
}

// Cells are the values of ExpandMatrix.
func Cells(matrix expr.Value) ([]expr.Value, error) {
	cells, err := ExpandMatrix(matrix)
	values := make([]expr.Value, len(cells))
	for i, c := range cells {
		values[i] = c.Values
	}
	return values, err
}

// ExpandMatrix gives the combinations of a matrix in GitHub's order (actions/runner MatrixBuilder): the cross product
// of the vectors without what exclude matches, the first key slowest, then what include adds. An include that fits a
// combination - equal in all of the vectors it names - adds its other keys to it, and to every other it fits. A matrix
// may make 256 cells; one that is null makes none.
func ExpandMatrix(matrix expr.Value) ([]Cell, error) {
	if matrix.IsNull() {
		return nil, nil
	}
	m, err := newMatrix(matrix)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m.cells()
}

// matrix is a matrix taken apart.
type matrix struct {
	vectors expr.Value // object of arrays
	include []include
	exclude []expr.Value
}

// include is an entry of matrix.include: what it must fit, and what it adds.
type include struct{ filter, extra expr.Value }

func newMatrix(v expr.Value) (*matrix, error) {
	if v.Kind() != expr.KindObject {
		return nil, fmt.Errorf("A matrix must be a mapping, this is %s", kindWords(v))
	}
	m := &matrix{}
	var vectors []expr.Pair
	var includes []expr.Value
	for _, p := range v.Pairs() {
		if p.Value.Kind() != expr.KindArray {
			return nil, fmt.Errorf("Matrix key '%s' must be a sequence, this is %s", p.Key, kindWords(p.Value))
		}
		switch p.Key {
		case "include":
			includes = p.Value.Items()
		case "exclude":
			m.exclude = p.Value.Items()
		default:
			vectors = append(vectors, p)
		}
	}
	m.vectors = expr.Object(vectors...)
	for _, item := range includes {
		if item.Kind() != expr.KindObject {
			return nil, fmt.Errorf("A matrix include must be a mapping, this is %s", kindWords(item))
		}
		m.include = append(m.include, m.split(item))
	}
	for _, item := range m.exclude {
		if item.Kind() != expr.KindObject {
			return nil, fmt.Errorf("A matrix exclude must be a mapping, this is %s", kindWords(item))
		}
	}
	return m, nil
}

// kindWords names a kind with its article.
func kindWords(v expr.Value) string {
	switch v.Kind() {
	case expr.KindNull:
		return "null"
	case expr.KindArray:
		return "a sequence"
	case expr.KindObject:
		return "a mapping"
	default:
		return "a " + string(v.Kind())
	}
}

func (m *matrix) split(item expr.Value) include {
	var filter, extra []expr.Pair
	for _, p := range item.Pairs() {
		if _, ok := m.vectors.Lookup(p.Key); ok {
			filter = append(filter, p)
		} else {
			extra = append(extra, p)
		}
	}
	return include{filter: expr.Object(filter...), extra: expr.Object(extra...)}
}

// check finds what GitHub refuses, in its words.
func (m *matrix) check() error {
	if m.vectors.Len() == 0 && len(m.include) == 0 {
		return errors.New("Matrix must define at least one vector")
	}
	for _, p := range m.vectors.Pairs() {
		if p.Value.Len() == 0 {
			return fmt.Errorf("Matrix vector '%s' does not contain any values", p.Key)
		}
	}
	for _, i := range m.include {
		if i.filter.Len() == 0 && i.extra.Len() == 0 {
			return errors.New("Matrix include mapping does not contain any values")
		}
	}
	for _, item := range m.exclude {
		if item.Len() == 0 {
			return errors.New("Matrix exclude filter must not be empty")
		}
		for _, p := range item.Pairs() {
			if _, ok := m.vectors.Lookup(p.Key); !ok {
				return fmt.Errorf("Matrix exclude key '%s' does not match any key within the matrix", p.Key)
			}
		}
	}
	return nil
}

// maxProduct is how many combinations are gone through for what exclude leaves of them, and maxWork how often one is
// compared with an include or exclude.
const (
	maxProduct = 1 << 16
	maxWork    = 1 << 22
)

// size is the number of combinations of the vectors, at most maxProduct+1.
func (m *matrix) size() int {
	if m.vectors.Len() == 0 {
		return 0
	}
	size := 1
	for _, p := range m.vectors.Pairs() {
		size = min(size*p.Value.Len(), maxProduct+1)
	}
	return size
}

func (m *matrix) cells() ([]Cell, error) {
	size := m.size()
	if size > maxProduct || size*(len(m.include)+len(m.exclude)) > maxWork {
		return nil, errors.New(sayTooManyCells)
	}
	var cells []Cell
	matched := make([]bool, len(m.include))
	for i := range size {
		values := m.combination(i, size)
		if m.excluded(values) {
			continue
		}
		if len(cells) == maxCells {
			return nil, errors.New(sayTooManyCells)
		}
		cells = append(cells, Cell{m.extend(values, matched), values.Len()})
	}
	for i, in := range m.include {
		if !matched[i] {
			values := expr.Object(slices.Concat(in.filter.Pairs(), in.extra.Pairs())...)
			cells = append(cells, Cell{values, values.Len()})
		}
		if len(cells) > maxCells {
			return nil, errors.New(sayTooManyCells)
		}
	}
	return cells, nil
}

// combination is number i of the cross product.
func (m *matrix) combination(i, size int) expr.Value {
	pairs := make([]expr.Pair, 0, m.vectors.Len())
	block := size
	for _, p := range m.vectors.Pairs() {
		block /= p.Value.Len()
		pairs = append(pairs, expr.Pair{Key: p.Key, Value: p.Value.At(i / block % p.Value.Len())})
	}
	return expr.Object(pairs...)
}

func (m *matrix) excluded(cell expr.Value) bool {
	for _, filter := range m.exclude {
		if fits(filter, cell) {
			return true
		}
	}
	return false
}

// extend adds to a combination what the includes that fit it bring, the last one winning.
func (m *matrix) extend(cell expr.Value, matched []bool) expr.Value {
	extra := expr.Object()
	for i, in := range m.include {
		if !fits(in.filter, cell) {
			continue
		}
		matched[i] = true
		for _, p := range in.extra.Pairs() {
			extra = extra.With(p.Key, p.Value)
		}
	}
	if extra.Len() == 0 {
		return cell
	}
	return expr.Object(slices.Concat(cell.Pairs(), extra.Pairs())...)
}

// fits reports whether every leaf of a filter equals, as == does, what the value has in its place.
func fits(filter, v expr.Value) bool {
	switch filter.Kind() {
	case expr.KindObject:
		for _, p := range filter.Pairs() {
			if !fits(p.Value, v.Property(p.Key)) {
				return false
			}
		}
		return true
	case expr.KindArray:
		for i, item := range filter.Items() {
			if !fits(item, v.At(i)) {
				return false
			}
		}
		return true
	default:
		return expr.Equal(filter, v)
	}
}

// maxName is how many UTF-16 units the name of a job has at most.
const maxName = 100

// JobName is a job's name with all values of a cell in parentheses. Cell.JobName leaves out what include added. Values
// within values are spread out, null and empty ones left out; a null cell adds nothing.
func JobName(displayNameOrID string, cell expr.Value) string {
	return jobName(displayNameOrID, cell.Pairs())
}

func jobName(name string, pairs []expr.Pair) string {
	if name == "" {
		return ""
	}
	var segments []string
	for _, p := range pairs {
		segments = appendLeaves(segments, p.Value)
	}
	if len(segments) > 0 {
		name += " (" + strings.Join(segments, ", ") + ")"
	}
	if units := utf16.Encode([]rune(name)); len(units) > maxName {
		name = string(utf16.Decode(units[:maxName-3])) + "..."
	}
	return name
}

func appendLeaves(segments []string, v expr.Value) []string {
	switch v.Kind() {
	case expr.KindArray:
		for _, item := range v.Items() {
			segments = appendLeaves(segments, item)
		}
	case expr.KindObject:
		for _, p := range v.Pairs() {
			segments = appendLeaves(segments, p.Value)
		}
	default:
		if text := v.Text(); text != "" {
			segments = append(segments, text)
		}
	}
	return segments
}
