"""What every evaluator promises, as checks that run on any class: `apportion evaluators verify my_package:Mine`."""
