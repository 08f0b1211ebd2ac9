"""The commands of `apportion`."""
