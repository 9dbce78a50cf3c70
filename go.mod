module github.com/penstock-ci/penstock

go 1.26
