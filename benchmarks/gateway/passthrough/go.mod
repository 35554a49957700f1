module passthrough

go 1.27
