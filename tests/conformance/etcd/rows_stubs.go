package main

var maintenanceRows, clusterRows, limitRows, httpRows, ctlRows, recipeRows, groupRows []row
